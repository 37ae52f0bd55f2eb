//! temp
use super::super::world::*;
use super::super::watch::Fact;
use std::time::Duration;
/// temp
pub fn cold(n: usize, seed: u64) -> World {
    let t = std::time::Instant::now();
    let mut world = World::new(Conditions { handshake_round_trips: std::env::var("HS").map_or(2, |x| x.parse().unwrap()), ..Conditions::new(seed) });
    for _ in 0..n { world.add(); }
    let all: Vec<_> = world.all().collect();
    let f = world.watch_for(Fact::Others(n-1));
    for ix in &all { world.start(*ix); }
    let ok = world.run_until(Duration::from_secs(600), |w| w.known_after(f, &all).last().is_some_and(|x| x.is_some()));
    let known = world.known_after(f, &all);
    eprintln!("cold {n}: {ok} first {:?} median {:?} last {:?} real {:?} events {} unjust {}", known[0], known[n/2], known[n-1], t.elapsed(), world.trace().0, world.unjust().len());
    world.stop_watching();
    for k in 0..10 {
        let before: Vec<_> = all.iter().map(|ix| world.load(*ix)).collect();
        let e = world.trace().0;
        counts(&world);
        let t = std::time::Instant::now();
        world.run_for(Duration::from_secs(60));
        let (mut m, mut b, mut l, mut g) = (0, 0, 0, 0);
        for (ix, bf) in all.iter().zip(before) { let a = world.load(*ix); m += a.messages - bf.messages; b += a.bytes - bf.bytes; l += a.links - bf.links; g += a.greeted - bf.greeted; }
        let d = 60.0 * n as f64;
        eprintln!("minute {k}: {:.2} msg/s {:.0} B/s {:.2} links/s {:.0} greet B/s; events {} real {:?} rss {} MB unjust {} lost {} links {}", m as f64/d, b as f64/d, l as f64/d, g as f64/d, world.trace().0 - e, t.elapsed(), super::super::usage::memory()>>20, world.unjust().len(), world.lost_ever(), world.links(all[0]));
    }
    world
}
/// temp
pub fn counts(world: &World) {
    let mut c = (0,0,0,0,0);
    for ix in world.all() { let k = world.engine(ix).counts(); c.0 += k.accused; c.1 += k.checks; c.2 += k.disproved; c.3 += k.muted; c.4 += k.false_claims; }
    let refused: Vec<_> = chappe_node::membership::counts::Reason::ALL.iter().map(|r| (r.as_str(), world.all().map(|ix| world.engine(ix).counts().refused(*r)).sum::<u64>())).filter(|x| x.1>0).collect();
    eprintln!("accused {} checks {} disproved {} muted {} false claims {}; refused {refused:?}", c.0, c.1, c.2, c.3, c.4);
}
/// temp
pub fn crashes(world: &mut World, k: usize) {
    let mut v = vec![];
    for _ in 0..k {
        let ix = world.any_honest();
        world.stop_watching();
        let f = world.watch_for(Fact::Gone(world.id(ix)));
        world.crash(ix);
        let all = world.honest();
        world.run_for(Duration::from_secs(25));
        let known = world.known_after(f, &all);
        let n = known.len();
        let s = |i: usize| known[i].map_or(99.0, |d| d.as_secs_f64());
        v.push((s(0), s((n*99).div_ceil(100)-1), s(n-1)));
    }
    let mean = |f: &dyn Fn(&(f64,f64,f64))->f64| v.iter().map(f).sum::<f64>()/v.len() as f64;
    eprintln!("crash first {:.1} 99% {:.1} all {:.1}; worst {:.1} {:.1}", mean(&|x| x.0), mean(&|x| x.1), mean(&|x| x.2), v.iter().map(|x| x.1).fold(0.0,f64::max), v.iter().map(|x| x.2).fold(0.0,f64::max));
}
/// temp
pub fn joins(world: &mut World, k: usize) {
    let mut v = vec![];
    for _ in 0..k {
        let all = world.honest();
        let ix = world.add();
        world.stop_watching();
        let f = world.watch_for(Fact::There(world.id(ix)));
        let g = world.watch_for(Fact::Others((all.len()*99).div_ceil(100)));
        world.start(ix);
        world.run_for(Duration::from_secs(25));
        let known = world.known_after(f, &all);
        let knows = world.known_after(g, &[ix])[0];
        let n = known.len();
        let s = |i: usize| known[i].map_or(99.0, |d| d.as_secs_f64());
        v.push((knows.map_or(99.0, |d| d.as_secs_f64()), s((n*99).div_ceil(100)-1), s(n-1)));
    }
    let mean = |f: &dyn Fn(&(f64,f64,f64))->f64| v.iter().map(f).sum::<f64>()/v.len() as f64;
    eprintln!("join: joiner knows {:.1} known by 99% {:.1} all {:.1}; worst {:.1} {:.1} {:.1}", mean(&|x| x.0), mean(&|x| x.1), mean(&|x| x.2), v.iter().map(|x| x.0).fold(0.0,f64::max), v.iter().map(|x| x.1).fold(0.0,f64::max), v.iter().map(|x| x.2).fold(0.0,f64::max));
}
