//! Puts the components that `plugins/build.sh` made into the binary; without them the host builds too, and has none.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=ANABRANCH_COMPONENTS");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    // OUT_DIR is <target>/<profile>/build/<crate>/out.
    let target = out.ancestors().nth(4).expect("cargo's layout");
    let folder = std::env::var_os("ANABRANCH_COMPONENTS").map_or_else(|| target.join("components"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut text = String::from("static BUNDLED: &[(&str, &[u8])] = &[\n");
    for path in components(&folder) {
        println!("cargo::rerun-if-changed={}", path.display());
        let name = path.file_stem().and_then(|name| name.to_str()).expect("read as text");
        writeln!(text, "    ({name:?}, include_bytes!({:?})),", path.display().to_string()).expect("writing into a String");
    }
    text.push_str("];\n");
    std::fs::write(out.join("bundled.rs"), text).expect("cargo's folder can be written");
}

fn components(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "wasm") && path.to_str().is_some()).collect();
    found.sort();
    found
}
