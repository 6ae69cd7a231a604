//! Who may ask and read: the file of each token, and what it is for.

use super::checks::check_token_file;
use super::file::Refused;
use super::locate::Locator;
use super::{Config, ConfigError, Watch, secrets, storage};
use crate::http::{Access, Grant, Scope, Token, TokenError};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Who may read what the HTTP server tells of tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reading {
    /// Whoever reaches its address.
    #[default]
    Open,
    /// Whoever shows a token.
    Token,
}

/// `[[token]]` as written: a token for part of what there is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenSection {
    file: PathBuf,
    location: String,
    table: Option<String>,
}

/// A token that is for one location, or one table of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ScopedToken {
    file: PathBuf,
    /// As it is watched.
    location: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
}

/// A reading that nobody may do is no setting.
pub(super) fn check_reading(reading: Reading, is_any: bool) -> Result<(), Refused> {
    if reading == Reading::Open || is_any {
        return Ok(());
    }
    let why = "\"token\" lets nobody read, since there is none; set token_file, or add a [[token]]";
    Err(Refused::at("daemon.reading", why))
}

pub(super) fn resolve_tokens(
    sections: Vec<TokenSection>,
    watches: &[Watch],
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<ScopedToken>, Refused> {
    let mut tokens = Vec::with_capacity(sections.len());
    for (index, section) in sections.into_iter().enumerate() {
        let TokenSection {
            file,
            location,
            table,
        } = section;
        let at = |key: &str, why: String| Refused::at(format!("token.{index}.{key}"), why);
        let file = secrets::file(file, environment).map_err(|why| at("file", why))?;
        check_token_file(&file).map_err(|why| at("file", why))?;
        if table.as_deref() == Some("") {
            let why = "is empty; leave it out for all tables of the location".to_owned();
            return Err(at("table", why));
        }
        let place = |uri: &str| storage::location_of(uri).unwrap_or_else(|_| uri.to_owned());
        let own = place(&location);
        let Some(watch) = watches.iter().find(|watch| place(&watch.uri) == own) else {
            let why = "no [[watch]] names it; a token is for one of them".to_owned();
            return Err(at("location", why));
        };
        tokens.push(ScopedToken {
            file,
            location: watch.uri.clone(),
            table,
        });
    }
    Ok(tokens)
}

impl Config {
    /// The tokens with what each is for.
    pub(crate) fn grants(&self) -> Vec<Grant> {
        let whole = self.daemon.token_file.iter().map(|file| Grant {
            file: file.clone(),
            scope: Scope::All,
        });
        let scoped = self.tokens.iter().map(|token| Grant {
            file: token.file.clone(),
            scope: match (&token.location, &token.table) {
                (location, None) => Scope::Location(location.clone()),
                (location, Some(table)) => Scope::Table {
                    location: location.clone(),
                    table: table.clone(),
                },
            },
        });
        whole.chain(scoped).collect()
    }

    fn reads_freely(&self) -> bool {
        self.daemon.reading == Reading::Open
    }

    /// Reads the files of the tokens.
    pub(crate) fn access(&self) -> Result<Access, TokenError> {
        Access::load(&self.grants(), self.reads_freely())
    }

    /// Reads them again. Whether something else stands there.
    pub(crate) fn take_up_access(&self, access: &Access) -> Result<bool, TokenError> {
        access.take_up(&self.grants(), self.reads_freely())
    }

    /// Who may read what an agent of the store at `uri` tells: those whose token is for all of it. An agent obeys nobody, so it
    /// needs no token where reading is free.
    pub(crate) fn access_to_agent(&self, uri: &str) -> Result<Access, TokenError> {
        if self.reads_freely() {
            return Ok(Access::open());
        }
        let of_all = |grant: &Grant| grant.scope.table().is_none();
        let same = |own: &str| storage::location_of(own).ok() == storage::location_of(uri).ok();
        let grants = self.grants().into_iter().filter(of_all);
        let grants = grants.filter(|grant| grant.scope.location().is_none_or(same));
        Access::load(&grants.collect::<Vec<_>>(), false)
    }

    /// Reads the files of the tokens as the daemon does; `text` is what was parsed, and says on which line each is named. A file
    /// that only others may read is theirs to find out.
    pub(crate) fn check_tokens(&self, text: &str, origin: &str) -> Result<(), ConfigError> {
        for (index, Grant { file, scope }) in self.grants().iter().enumerate() {
            let scoped = index.saturating_sub(usize::from(self.daemon.token_file.is_some()));
            let key = match scope {
                Scope::All => "daemon.token_file".to_owned(),
                _ => format!("token.{scoped}.file"),
            };
            match Token::load(file) {
                Err(e) if !e.is_denied() => {
                    let refused = Refused::at(key, e.to_string());
                    return Err(refused.located(&Locator::new(text), origin));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
