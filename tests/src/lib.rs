//! What takes several crates: processes, raw frames, wire vectors.
