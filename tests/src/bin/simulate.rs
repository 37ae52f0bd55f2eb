//! temp
use chappe_tests::simulation::scenario::calm::*;
fn main(){ let n = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(100); 
let mut world = cold(n, 1);
let t = std::time::Instant::now();
crashes(&mut world, 10);
eprintln!("{:?}", t.elapsed());
let t = std::time::Instant::now();
joins(&mut world, 10);
eprintln!("{:?}", t.elapsed());
}
