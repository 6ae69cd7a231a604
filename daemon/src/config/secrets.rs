//! Values that stand outside the file: `env:NAME` in the environment, `credential:NAME` among what systemd gives a service
//! (`LoadCredential=NAME:FILE`), which only the service can read.

use crate::text_file;
use std::path::{Path, PathBuf};

const ENVIRONMENT: &str = "env:";
const CREDENTIAL: &str = "credential:";

/// Where systemd says that a service finds its credentials.
const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The value of a storage option that was written so.
pub(super) fn value(written: String, environment: Environment<'_>) -> Result<String, String> {
    if let Some(name) = written.strip_prefix(ENVIRONMENT) {
        return environment(name).ok_or_else(|| {
            format!(
                "the environment variable {name} is not set; set it for the service, or write the value here"
            )
        });
    }
    let Some(name) = written.strip_prefix(CREDENTIAL) else {
        return Ok(written);
    };
    let file = credential(name, environment)?;
    let text = text_file::read(&file).map_err(|e| {
        format!(
            "the credential {name} cannot be read from {}: {e}",
            file.display()
        )
    })?;
    Ok(text.trim().to_owned())
}

/// The file that was written so.
pub(super) fn file(written: PathBuf, environment: Environment<'_>) -> Result<PathBuf, String> {
    match written
        .to_str()
        .and_then(|text| text.strip_prefix(CREDENTIAL))
    {
        Some(name) => credential(name, environment),
        None => Ok(written),
    }
}

fn credential(name: &str, environment: Environment<'_>) -> Result<PathBuf, String> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(format!("\"{name}\" is no name of a credential"));
    }
    let directory = environment(DIRECTORY).ok_or_else(|| {
        format!(
            "there are no credentials here ({DIRECTORY} is not set): systemd gives them to the service, by LoadCredential={name}:FILE in its unit"
        )
    })?;
    Ok(Path::new(&directory).join(name))
}
