//! Writes the CustomResourceDefinitions into the folder given as the only argument (default: `crds`).

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "crds".to_owned()));
    std::fs::create_dir_all(&folder)?;
    for file in muster_api::crd_yaml()? {
        std::fs::write(folder.join(&file.name), &file.text)?;
    }
    Ok(())
}
