//! Writes the contract's documents into a folder, `docs/contract` by default, and takes out those that are no longer made.
//!
//! `make contract` runs it.

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;

use switchyard_common::contract::schema::documents;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "docs/contract".to_owned()));
    let documents = documents()?;
    std::fs::create_dir_all(&folder)?;
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".json") && !documents.contains_key(name) {
            std::fs::remove_file(&path)?;
        }
    }
    for (name, text) in &documents {
        std::fs::write(folder.join(name), text)?;
    }
    writeln!(std::io::stdout(), "{} documents in {}", documents.len(), folder.display())?;
    Ok(())
}
