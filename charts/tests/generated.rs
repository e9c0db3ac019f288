//! The generated files are what the code says. `GRAFT_BLESS=1` writes them instead; `cargo xtask codegen` sets it.
#![allow(missing_docs)]

use std::path::Path;

#[test]
fn generated_files_are_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut stale = Vec::new();
    for file in graft_charts::files() {
        let path = root.join(&file.path);
        if std::env::var_os("GRAFT_BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &file.text).unwrap();
        }
        if std::fs::read_to_string(&path).unwrap_or_default() != file.text {
            stale.push(file.path);
        }
    }
    assert!(stale.is_empty(), "out of date, run `cargo xtask codegen`: {stale:#?}");
}
