//! Who may ask, and see, what. Each token has a [`Scope`]: all there is, or one location, or one table of it. Of what lies
//! outside of its scope a token learns nothing, not even whether it is there.

use super::token::{Token, TokenError};
use super::{Ask, ControlVerb, Refusal};
use axum::http::{HeaderMap, header};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// What somebody may ask for and see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scope {
    #[default]
    All,
    Location(String),
    Table {
        location: String,
        /// As it is watched, with or without `.lance`.
        table: String,
    },
}

fn bare(table: &str) -> &str {
    table.strip_suffix(".lance").unwrap_or(table)
}

pub(super) fn same_location(a: &str, b: &str) -> bool {
    a.trim_end_matches('/') == b.trim_end_matches('/')
}

impl Scope {
    /// The location that it ends with.
    pub(crate) fn location(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::Location(location) | Self::Table { location, .. } => Some(location),
        }
    }

    /// The table that it ends with.
    pub(crate) fn table(&self) -> Option<&str> {
        match self {
            Self::All | Self::Location(_) => None,
            Self::Table { table, .. } => Some(table),
        }
    }

    /// Whether something of the location at `uri` is within it.
    pub(crate) fn sees_location(&self, uri: &str) -> bool {
        self.location().is_none_or(|own| same_location(own, uri))
    }

    /// Whether `table` of the location at `uri` is; what concerns all tables of a location is none of them.
    pub(crate) fn sees(&self, uri: &str, table: &str) -> bool {
        self.sees_location(uri) && self.table().is_none_or(|own| bare(own) == bare(table))
    }

    /// The same wish, for no more than what is within it: what names nothing is about all that is.
    pub(super) fn narrow(&self, ask: Ask) -> Result<Ask, Refusal> {
        let Some(location) = self.location() else {
            return Ok(ask);
        };
        let Ask { verb, mut what } = ask;
        let all_tables = verb == ControlVerb::Recover && self.table().is_some();
        if verb == ControlVerb::Drain || all_tables {
            return Err(Refusal::Beyond(format!(
                "{verb} is about more than what this token is for"
            )));
        }
        let other = |own: Option<&str>, named: &Option<String>, same: fn(&str, &str) -> bool| matches!((own, named), (Some(own), Some(named)) if !same(own, named));
        if other(Some(location), &what.store, same_location)
            || other(self.table(), &what.table, |a, b| bare(a) == bare(b))
        {
            return Err(nothing_there());
        }
        what.store = Some(location.to_owned());
        if let Some(table) = self.table() {
            what.table = Some(table.to_owned());
        }
        Ok(Ask { verb, what })
    }

    /// What may be told of a refusal: the reasons of others name what there is.
    pub(super) fn tells(&self, refusal: Refusal) -> Refusal {
        match refusal {
            Refusal::Unknown(_) if *self != Self::All => nothing_there(),
            other => other,
        }
    }
}

/// The same for what is not there and for what is somebody else's.
fn nothing_there() -> Refusal {
    Refusal::Unknown("nothing of that name is there for this token; /status names all".to_owned())
}

/// The file of a token, and whom it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) file: PathBuf,
    pub(crate) scope: Scope,
}

#[derive(Clone, Debug, Default)]
struct Granted {
    tokens: Vec<(Token, Scope)>,
    /// Whether whoever has no token may read.
    reads_freely: bool,
}

/// All tokens of a server. A clone is the same: what one of them takes up holds for all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access(Arc<RwLock<Granted>>);

/// How a caller stands.
pub(super) enum Caller {
    May(Scope),
    /// No token, or one that nobody gave out.
    Unknown,
    /// There is no token that would do.
    Nobody,
}

impl Access {
    /// Reads the files of the tokens.
    ///
    /// # Errors
    /// One cannot be read, or is no token, or is that of another scope as well.
    pub(crate) fn load(grants: &[Grant], reads_freely: bool) -> Result<Self, TokenError> {
        let granted = Granted::load(grants, reads_freely)?;
        Ok(Self(Arc::new(RwLock::new(granted))))
    }

    /// Nobody asks for a change, and everybody reads.
    pub(crate) fn open() -> Self {
        let granted = Granted {
            reads_freely: true,
            ..Granted::default()
        };
        Self(Arc::new(RwLock::new(granted)))
    }

    /// Takes up what the files say now, all of it or nothing. Whether that is something else.
    pub(crate) fn take_up(&self, grants: &[Grant], reads_freely: bool) -> Result<bool, TokenError> {
        let now = Granted::load(grants, reads_freely)?;
        let mut granted = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let changed = *granted != now;
        *granted = now;
        Ok(changed)
    }

    fn granted(&self) -> Granted {
        let granted = self.0.read().unwrap_or_else(PoisonError::into_inner);
        granted.clone()
    }

    /// Whether whoever has no token may read.
    pub(crate) fn reads_freely(&self) -> bool {
        self.granted().reads_freely
    }

    /// Who asks for a change.
    pub(super) fn of_change(&self, headers: &HeaderMap) -> Caller {
        let granted = self.granted();
        match granted.scope_of(headers) {
            _ if granted.tokens.is_empty() => Caller::Nobody,
            Some(scope) => Caller::May(scope),
            None => Caller::Unknown,
        }
    }

    /// Who reads.
    pub(super) fn of_reading(&self, headers: &HeaderMap) -> Caller {
        let granted = self.granted();
        match granted.scope_of(headers) {
            Some(scope) => Caller::May(scope),
            None if granted.reads_freely => Caller::May(Scope::All),
            None => Caller::Unknown,
        }
    }
}

impl PartialEq for Granted {
    fn eq(&self, other: &Self) -> bool {
        let same =
            |((a, of_a), (b, of_b)): (&(Token, Scope), &(Token, Scope))| of_a == of_b && a.is(b);
        self.reads_freely == other.reads_freely
            && self.tokens.len() == other.tokens.len()
            && self.tokens.iter().zip(&other.tokens).all(same)
    }
}

impl Granted {
    fn load(grants: &[Grant], reads_freely: bool) -> Result<Self, TokenError> {
        let mut tokens: Vec<(Token, Scope)> = Vec::with_capacity(grants.len());
        for Grant { file, scope } in grants {
            let token = Token::load(file)?;
            if tokens.iter().any(|(other, _)| other.is(&token)) {
                return Err(TokenError::Twice {
                    origin: shown(file),
                });
            }
            tokens.push((token, scope.clone()));
        }
        Ok(Self {
            tokens,
            reads_freely,
        })
    }

    /// The scope of the token that is shown. All are compared, so that the time tells of none.
    fn scope_of(&self, headers: &HeaderMap) -> Option<Scope> {
        let presented = bearer(headers)?;
        let compared = self.tokens.iter();
        let compared = compared.map(|(token, scope)| token.matches(presented).then_some(scope));
        let found: Vec<Option<&Scope>> = compared.collect();
        found.into_iter().flatten().next().cloned()
    }
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}

/// What follows `Bearer` in the one `Authorization` header; the scheme is case-insensitive (RFC
/// 9110, 11.1).
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(only), None) = (given.next(), given.next()) else {
        return None;
    };
    let (scheme, rest) = only.as_bytes().split_at_checked("Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| rest.trim_ascii())
}

#[cfg(test)]
impl Access {
    /// One token for all, if any, and free reading.
    pub(crate) fn of(token: Option<&str>) -> Self {
        Self::with(token.map(|text| (text, Scope::All)).as_slice(), true)
    }

    pub(crate) fn with(tokens: &[(&str, Scope)], reads_freely: bool) -> Self {
        let parsed = tokens.iter();
        let parsed = parsed.map(|(text, of)| (Token::parse(text, "test").unwrap(), of.clone()));
        let tokens = parsed.collect();
        Self(Arc::new(RwLock::new(Granted {
            tokens,
            reads_freely,
        })))
    }

    /// What the token `text` is for.
    pub(crate) fn scope_of(&self, text: &str) -> Option<Scope> {
        let mut headers = HeaderMap::new();
        let value = format!("Bearer {text}").parse().unwrap();
        headers.insert(header::AUTHORIZATION, value);
        self.granted().scope_of(&headers)
    }
}
