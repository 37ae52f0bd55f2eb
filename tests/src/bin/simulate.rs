//! temp
use chappe_tests::simulation::{scenario::{*, calm::Calm}, world::Conditions};
fn show(f: Vec<Figure>, t: std::time::Instant) { for f in f { println!("{} {:<90} {:>10.3} {} {:?}", if f.is_ok() {' '} else {'!'}, f.name, f.value, f.unit, f.target); } eprintln!("   {:?}", t.elapsed()); }
fn main(){ let n = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(100);
let hs = std::env::var("HS").map_or(2, |x| x.parse().unwrap());
let sizes = if n == 30 { Sizes::small() } else { Sizes::full(n) };
let cond = Conditions { handshake_round_trips: hs, ..Conditions::new(1) };
let t = std::time::Instant::now();
let only = std::env::args().nth(2);
let is = |x: &str| only.as_ref().is_none_or(|o| x.contains(o));
if is("calm") {
let mut calm = Calm::new(cond, sizes);
show(calm.start(), t);
show(calm.steady(), t);
show(calm.crash(), t);
show(calm.join(), t);
show(calm.partition(), t);
show(calm.loss(), t);
}
if is("sick") {
show(faults::stalls(cond, sizes), t);
show(faults::flaps(cond, sizes), t);
}
if is("attack") {
for (name, attack) in attacks::Attack::all() { show(attacks::attack(cond, sizes, &name, attack), t); }
show(attacks::strangers(cond, sizes), t);
show(attacks::anchors(cond, sizes), t);
}
}
