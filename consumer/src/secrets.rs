//! Resolves `secretKeyRef`s to values.
//!
//! Guarantees: a value is read anew at every call, so that a rotated password needs no restart; no value
//! appears in an error, in `Debug` or in `Display`; a reference can name nothing outside the secrets' folder. Values are
//! wiped when they are dropped; those of the process's environment, and copies of client libraries, are not.

mod sql;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sluice_crds::v1alpha1::SecretKeyRef;
use sluice_crds::validate::{is_object_name, is_secret_key};
use zeroize::Zeroizing;

pub use sql::{mysql, postgres};

const BYTE_ORDER_MARK: char = '\u{feff}';

/// A value that must not be shown. `Debug` and `Display` hide it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The value itself; only for the client library that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[hidden]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[hidden]")
    }
}

/// Why a reference gives no usable value. Never holds the value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Neither the file nor the variable exists.
    #[error("{reference} was not found: looked for {file} and the environment variable {variable}", file = FileText(.file))]
    Missing {
        /// `NAME/KEY`.
        reference: SecretKeyRef,
        /// The file looked for; none without a folder.
        file: Option<PathBuf>,
        /// The variable looked for.
        variable: String,
    },
    /// The file exists and cannot be read, or is not text.
    #[error("cannot read {file}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The environment variable is not text.
    #[error("the environment variable {0} is not UTF-8 text")]
    NotText(String),
    /// Name or key cannot belong to a Secret.
    #[error("{0:?} does not name a key of a Secret")]
    InvalidReference(String),
    /// The value is not what its place needs.
    #[error("{reference} {message}")]
    Unusable {
        /// `NAME/KEY`.
        reference: SecretKeyRef,
        /// What was expected, without the value.
        message: String,
    },
    /// Neither a URL nor all of its parts.
    #[error("either urlFrom is needed, or host, database, usernameFrom and passwordFrom")]
    Incomplete,
}

struct FileText<'a>(&'a Option<PathBuf>);

impl fmt::Display for FileText<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(file) => write!(formatter, "the file {}", file.display()),
            None => formatter.write_str("no file (no --secrets-dir was given)"),
        }
    }
}

type Environment = fn(&str) -> Option<std::ffi::OsString>;

/// Where values are looked for: the file `NAME/KEY` in a folder, as a mounted Secret lies, else the
/// environment variable `SLUICE_SECRET_NAME_KEY`.
#[derive(Clone, Debug)]
pub struct Secrets {
    dir: Option<PathBuf>,
    environment: Environment,
}

impl Secrets {
    /// Looks in `dir` (`--secrets-dir`) and in the environment of the process.
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, environment: |variable| std::env::var_os(variable) }
    }

    /// The present value. A byte order mark at its beginning and one line break at its end are dropped: editors and
    /// `echo` add them.
    ///
    /// # Errors
    /// See [`SecretError`]; it names the file and the variable that were looked for.
    pub fn resolve(&self, reference: &SecretKeyRef) -> Result<Secret, SecretError> {
        if !is_object_name(&reference.name) || !is_secret_key(&reference.key) {
            return Err(SecretError::InvalidReference(reference.to_string()));
        }
        let file = self.dir.as_ref().map(|dir| dir.join(&reference.name).join(&reference.key));
        if let Some(file) = &file {
            match read(file) {
                Ok(value) => return Ok(without_marks(value)),
                // A folder of that name that is a file counts as absent, too.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(source) => return Err(SecretError::Unreadable { file: file.clone(), source }),
            }
        }
        let variable = variable_name(reference);
        match (self.environment)(&variable) {
            Some(value) => {
                let value = value.into_string().map_err(|_| SecretError::NotText(variable))?;
                Ok(without_marks(Zeroizing::new(value)))
            }
            None => Err(SecretError::Missing { reference: reference.clone(), file, variable }),
        }
    }
}

fn variable_name(reference: &SecretKeyRef) -> String {
    let word = |text: &str| -> String {
        let letter =
            |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
        text.chars().map(letter).collect()
    };
    format!("SLUICE_SECRET_{}_{}", word(&reference.name), word(&reference.key))
}

fn read(file: &Path) -> io::Result<Zeroizing<String>> {
    let mut file = File::open(file)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    // Room for all of it: a buffer that grows leaves copies behind.
    let mut value = Zeroizing::new(String::with_capacity(length + 1));
    file.read_to_string(&mut value)?;
    Ok(value)
}

fn without_marks(mut value: Zeroizing<String>) -> Secret {
    if value.ends_with('\n') {
        value.pop();
        if value.ends_with('\r') {
            value.pop();
        }
    }
    if value.starts_with(BYTE_ORDER_MARK) {
        value.remove(0);
    }
    Secret(value)
}

#[cfg(test)]
mod tests;
