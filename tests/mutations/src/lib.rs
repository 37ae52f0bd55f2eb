//! Decoders of bytes from strangers, fed with valid inputs that were changed at random.
//!
//! Each decoder's target is a test beside it, named `mutated_…`. A few thousand inputs by default; for a long run
//! `CHAPPE_MUTATIONS=10000000 cargo test --release --workspace mutated -- --nocapture`, which tells the rates. The inputs
//! depend on the seed alone (`CHAPPE_SEED`, by default 1); one that makes a target fail is printed in hexadecimal.
//!
//! Without coverage to guide it, it goes as deep as its corpus: give it one valid input of every kind. Inputs that were
//! taken are changed again. The fuzzers in `fuzz/` are guided, and run the same targets: with `CHAPPE_SEEDS=/a/folder` the
//! valid inputs are written there for them, each behind its target's [`tag`].

mod change;

use std::{
    fmt::Write as _,
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    time::Instant,
};

use change::Changes;

/// The default number of inputs: a debug build checks some thousands of signatures a second.
const INPUTS: u64 = 2_000;
/// How many inputs that were taken are kept to be changed again.
const KEPT: usize = 64;

/// The byte by which a target's inputs are known among those of others: FNV-1a over its name, folded.
pub const fn tag(name: &str) -> u8 {
    let (bytes, mut hash, mut at) = (name.as_bytes(), 0x811c_9dc5_u32, 0);
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    let [a, b, c, d] = hash.to_le_bytes();
    a ^ b ^ c ^ d
}

/// Calls a target, which has a name, with mutations of `corpus`. It says whether the decoder took the input, and panics
/// where something is wrong with what came of it.
///
/// # Panics
/// The target does, or takes one of the corpus not, or the corpus is empty, or the seeds that are wanted can't be written.
pub fn run((name, mut target): (&str, impl FnMut(&[u8]) -> bool), corpus: &[impl AsRef<[u8]>]) {
    let number = |key: &str, default| std::env::var(key).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (inputs, seed) = (number("CHAPPE_MUTATIONS", INPUTS), number("CHAPPE_SEED", 1));
    let mut pool: Vec<Vec<u8>> = corpus.iter().map(|valid| valid.as_ref().to_vec()).collect();
    for valid in &pool {
        assert!(target(valid), "{name}: a valid input is refused: {}", hex(valid));
    }
    if let Some(folder) = std::env::var_os("CHAPPE_SEEDS") {
        write_seeds(folder.as_ref(), name, &pool);
    }
    let (valid, longest) = (pool.len(), pool.iter().map(Vec::len).max().unwrap_or(0));
    let mut changes = Changes::new(seed, longest * 2 + 64);
    let (mut taken, since) = (0_u64, Instant::now());
    for input in 0..inputs {
        let bytes = changes.next(&pool);
        match catch_unwind(AssertUnwindSafe(|| target(&bytes))) {
            Ok(false) => {}
            Ok(true) => {
                taken += 1;
                if pool.len() < valid + KEPT {
                    pool.push(bytes);
                } else {
                    let place = valid + changes.below(KEPT);
                    pool[place] = bytes;
                }
            }
            Err(panic) => {
                eprintln!("{name}: input {input} of seed {seed} fails: {}", hex(&bytes));
                resume_unwind(panic);
            }
        }
    }
    let seconds = since.elapsed().as_secs_f64().max(1e-9);
    #[expect(clippy::cast_precision_loss, reason = "a rate and a share")]
    let (rate, share) = (inputs as f64 / seconds, taken as f64 / inputs.max(1) as f64 * 100.0);
    println!("mutated {name}: {inputs} inputs of seed {seed}, {rate:.0}/s, {share:.1} % taken");
}

fn write_seeds(folder: &Path, name: &str, inputs: &[Vec<u8>]) {
    fs::create_dir_all(folder).expect("the seeds' folder can be made");
    for (n, input) in inputs.iter().enumerate() {
        let path = folder.join(format!("{}-{n}", name.replace(' ', "-")));
        fs::write(path, [&[tag(name)], &input[..]].concat()).expect("the seeds' folder can be written to");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_that_panics_on_a_rare_input_is_found() {
        let found = catch_unwind(|| {
            let target = |bytes: &[u8]| {
                assert!(!bytes.windows(2).any(|two| two == b"-1"), "a number that nobody expected");
                bytes.starts_with(b"{")
            };
            run(("rare", target), &[b"{\"n\":1}"]);
        });
        assert!(found.is_err());
    }

    #[test]
    fn the_inputs_depend_on_the_seed_alone() {
        let inputs = |seed| {
            let (mut changes, pool) = (Changes::new(seed, 100), [b"valid".to_vec(), b"other".to_vec()]);
            (0..1000).map(|_| changes.next(&pool)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
        assert!(inputs(1).iter().all(|input| input.len() <= 100));
    }

    #[test]
    fn a_valid_input_that_is_refused_is_a_failure() {
        assert!(catch_unwind(|| run(("none", |_: &[u8]| false), &[b"valid"])).is_err());
    }
}
