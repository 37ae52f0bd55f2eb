//! Verification words: 256 short words that are hard to confuse, one for each byte.
//!
//! The list is part of the protocol: both sides have to show the same words.

/// How many words people compare. With the commitment of `pairing`, an attacker in between has one chance in 2^32, and
/// must have guessed the code as well.
pub const COUNT: usize = 4;

#[rustfmt::skip]
const WORDS: [&str; 256] = [
    "acorn", "actor", "adobe", "album", "amber", "angel", "ankle", "apple", "april", "arrow", "aspen", "atlas",
    "attic", "award", "azure", "bacon", "badge", "bagel", "baker", "balsa", "banjo", "barn", "basil", "beach",
    "bench", "berry", "birch", "bison", "blaze", "bloom", "board", "bonus", "boxer", "brave", "bread", "brick",
    "brook", "broom", "brush", "cabin", "cable", "cactus", "camel", "candy", "canoe", "cargo", "cedar", "chalk",
    "charm", "cheek", "chess", "child", "chin", "cider", "cigar", "circus", "clay", "cliff", "clock", "cloud",
    "clover", "coast", "cobra", "cocoa", "comet", "copper", "coral", "couch", "crane", "crayon", "crown", "cube",
    "daisy", "dance", "delta", "denim", "desert", "diary", "diner", "disco", "dog", "dollar", "donut", "door", "dove",
    "dragon", "drum", "duck", "eagle", "earth", "easel", "echo", "elbow", "elm", "ember", "empty", "engine", "equal",
    "essay", "event", "exit", "fable", "falcon", "feast", "fern", "ferry", "fiddle", "field", "flag", "flame",
    "flute", "foam", "forest", "fossil", "fox", "frost", "fudge", "galaxy", "garden", "garlic", "gecko", "ghost",
    "giant", "ginger", "glass", "globe", "glove", "goat", "gold", "goose", "gown", "grape", "grass", "guitar", "gull",
    "hammer", "harbor", "hat", "hazel", "helmet", "heron", "hill", "hippo", "honey", "hood", "horse", "hotel",
    "hunter", "ice", "igloo", "iron", "island", "ivory", "jacket", "jade", "jaguar", "jazz", "jelly", "jewel",
    "juice", "jungle", "kayak", "kettle", "kiwi", "koala", "ladder", "lagoon", "lake", "lamp", "laser", "lemon",
    "lily", "linen", "lion", "lizard", "llama", "lobby", "locket", "lotus", "lunar", "magnet", "mango", "maple",
    "marble", "meadow", "melon", "metal", "mint", "mirror", "money", "moon", "motor", "mouse", "mule", "museum",
    "nail", "napkin", "navy", "nest", "noodle", "north", "nurse", "oak", "oasis", "ocean", "olive", "onion", "opera",
    "orbit", "orchid", "otter", "oven", "owl", "oyster", "paddle", "palace", "panda", "paper", "parrot", "peach",
    "pearl", "pencil", "pepper", "piano", "pigeon", "pilot", "pirate", "pizza", "planet", "plum", "poem", "polar",
    "pony", "potato", "prism", "pump", "quartz", "queen", "quilt", "rabbit", "radar", "radio", "raven", "ribbon",
    "river", "robin", "rocket", "saddle", "sailor", "salmon", "saturn", "school", "silver", "spider", "tiger",
    "zebra",
];

/// One word for each byte.
pub fn of_bytes(bytes: [u8; COUNT]) -> [&'static str; COUNT] {
    bytes.map(|byte| WORDS[usize::from(byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_short_and_all_different() {
        let mut words = WORDS.to_vec();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), 256);
        assert!(words.iter().all(|word| (2..=8).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_lowercase())));
        assert_eq!(of_bytes([0, 1, 254, 255]), ["acorn", "actor", "tiger", "zebra"]);
    }
}
