//! Embeds the directory file that `CHAPPE_SNAPSHOT` names, for a first start without any reachable source. It has the
//! format of a registry's `/v1/directory`, and is verified when it is read.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=CHAPPE_SNAPSHOT");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where")).join("snapshot");
    let bytes = match env::var_os("CHAPPE_SNAPSHOT") {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(&path).expect("CHAPPE_SNAPSHOT names a directory's file that can be read")
        }
        None => Vec::new(),
    };
    fs::write(out, bytes).expect("cargo's folder can be written to");
}
