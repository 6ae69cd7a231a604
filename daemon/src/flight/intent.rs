//! What a put wants: its descriptor and its options, before anything is looked at.

use super::received::Missing;
use super::wire::{Any, CommandStatementIngest, FlightDescriptor};
use crate::input::batch::Mode;
use prost::Message;
use squire_engine::commit::When;
use squire_engine::ids::{Key, TableName};
use std::collections::BTreeMap;
use tonic::Status;
use tonic::codegen::http::HeaderMap;

use super::failure::refused;

/// What every option of ours begins with, in a header or in the options of a command.
const PREFIX: &str = "squire.";

/// The options that a call may have.
const KNOWN: [&str; 6] = [
    "mode",
    "key",
    "batch_id",
    "message",
    "transaction",
    "allow_empty",
];

/// The options of one call.
#[derive(Debug, Default)]
pub(super) struct Asked(BTreeMap<String, String>);

impl Asked {
    /// Those in the headers of a call. One that is given twice must say the same: ADBC adds a cursor's to its connection's, and to
    /// those that were set on the cursor before.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Status> {
        let mut asked = Self::default();
        for (name, value) in headers {
            let Some(name) = name.as_str().strip_prefix(PREFIX) else {
                continue;
            };
            let value = String::from_utf8(value.as_bytes().to_vec()).map_err(|_| {
                Status::invalid_argument(format!("header {PREFIX}{name} is no UTF-8"))
            })?;
            asked.take(name, value)?;
        }
        Ok(asked)
    }

    fn take(&mut self, name: &str, value: String) -> Result<(), Status> {
        if !KNOWN.contains(&name) {
            let known = KNOWN.join(&format!(", {PREFIX}"));
            return Err(Status::invalid_argument(format!(
                "there is no option {PREFIX}{name}; use {PREFIX}{known}"
            )));
        }
        match self.0.get(name) {
            Some(own) if *own != value => Err(Status::invalid_argument(format!(
                "option {PREFIX}{name} is given twice, as {own:?} and as {value:?}; take a new cursor for each batch, and set it on the \
                 connection or on the cursor"
            ))),
            _ => {
                self.0.insert(name.to_owned(), value);
                Ok(())
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }
}

/// Where a put belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Belongs {
    /// To the transaction of this name.
    Named(String),
    /// To the one of its connection, if there is one.
    ToConnection,
    /// To none.
    Alone,
}

/// What a put wants.
#[derive(Debug)]
pub(super) struct Intent {
    pub(super) table: TableName,
    pub(super) mode: Mode,
    pub(super) missing: Missing,
    pub(super) batch: Option<String>,
    pub(super) message: Option<String>,
    pub(super) belongs: Belongs,
    /// Whether it is answered as Flight SQL is, by a number of rows.
    pub(super) is_sql: bool,
}

impl Intent {
    /// What `descriptor` and the options of the headers say.
    pub(super) fn of(descriptor: FlightDescriptor, asked: Asked) -> Result<Self, Status> {
        match descriptor.kind {
            FlightDescriptor::PATH => Self::of_path(&descriptor.path, &asked),
            FlightDescriptor::CMD => {
                let any = Any::decode(descriptor.cmd);
                let any = any.map_err(|_| not_spoken("a command that is none of Flight SQL"))?;
                match any.name() {
                    CommandStatementIngest::NAME => {
                        let command = CommandStatementIngest::decode(any.value);
                        let command = command.map_err(|e| {
                            Status::invalid_argument(format!("the command cannot be read: {e}"))
                        })?;
                        Self::of_command(command, asked)
                    }
                    other => Err(not_spoken(other)),
                }
            }
            _ => Err(Status::invalid_argument(
                "the first message of a put has to say the table: FlightDescriptor.for_path(\"TABLE\"), or CommandStatementIngest",
            )),
        }
    }

    fn of_path(path: &[String], asked: &Asked) -> Result<Self, Status> {
        let [table] = path else {
            return Err(Status::invalid_argument(format!(
                "the path of a put is the name of a table, and this one has {} parts",
                path.len()
            )));
        };
        let belongs = match asked.owned("transaction") {
            Some(name) => Belongs::Named(name),
            None => Belongs::Alone,
        };
        let (mode, missing) = (mode_of(asked, None)?, Missing::Fails);
        Self::with(table, (mode, missing), belongs, (asked, false))
    }

    fn of_command(command: CommandStatementIngest, mut asked: Asked) -> Result<Self, Status> {
        let is_said = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.is_empty());
        if command.temporary || is_said(&command.catalog) || is_said(&command.schema) {
            return Err(Status::invalid_argument(
                "a store has tables, and neither catalogs, schemas nor temporary tables; leave those out",
            ));
        }
        for (name, value) in command.options {
            if let Some(name) = name.strip_prefix(PREFIX) {
                asked.take(name, value)?;
            }
        }
        let definition = command.definition.unwrap_or_default();
        let key = key_of(&asked)?;
        let (replaces, missing) = match (definition.if_not_exist, definition.if_exists) {
            (1, 1) => (false, Missing::MadeNew(key)),
            (1, 2) => (false, Missing::Made(key)),
            (1, 3) => (true, Missing::Made(key)),
            (0 | 2, 0 | 2) => (false, Missing::Fails),
            (0 | 2, 3) => (true, Missing::Fails),
            (2, 1) => {
                return Err(Status::invalid_argument(
                    "a put that fails where its table is, and where it is not, can do nothing",
                ));
            }
            _ => {
                return Err(Status::invalid_argument(
                    "say what becomes of the table: create, append, replace or create_append",
                ));
            }
        };
        let named = command.transaction_id.filter(|id| !id.is_empty());
        let named = named.map(|id| String::from_utf8_lossy(&id).into_owned());
        let belongs = match named.or_else(|| asked.owned("transaction")) {
            Some(name) => Belongs::Named(name),
            None => Belongs::ToConnection,
        };
        let mode = mode_of(&asked, replaces.then_some("overwrite"))?;
        Self::with(&command.table, (mode, missing), belongs, (&asked, true))
    }

    fn with(
        table: &str,
        (mode, missing): (Mode, Missing),
        belongs: Belongs,
        (asked, is_sql): (&Asked, bool),
    ) -> Result<Self, Status> {
        if asked.get("key").is_some()
            && missing == Missing::Fails
            && !matches!(mode, Mode::Merge { .. })
        {
            return Err(Status::invalid_argument(
                "squire.key is only for rows that are merged (squire.mode=merge), and for tables that are made",
            ));
        }
        Ok(Self {
            table: TableName::new(table).map_err(refused)?,
            mode,
            missing,
            batch: asked.owned("batch_id"),
            message: asked.owned("message"),
            belongs,
            is_sql,
        })
    }
}

fn not_spoken(what: &str) -> Status {
    Status::unimplemented(format!(
        "{what}: an agent takes rows and answers no queries; it knows CommandStatementIngest, and puts to the path of a table"
    ))
}

fn key_of(asked: &Asked) -> Result<Option<Key>, Status> {
    let key = asked.get("key").map(str::parse).transpose();
    key.map_err(refused)
}

/// The mode that the options say, which must not be another one than the command's.
fn mode_of(asked: &Asked, command: Option<&'static str>) -> Result<Mode, Status> {
    let said = asked.get("mode");
    if let (Some(said), Some(command)) = (said, command)
        && said != command
    {
        return Err(Status::invalid_argument(format!(
            "squire.mode={said} is for rows that go into what is there, and the command replaces that"
        )));
    }
    let allow_empty = match asked.get("allow_empty") {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            return Err(Status::invalid_argument(format!(
                "squire.allow_empty={other}: say true or false"
            )));
        }
    };
    let merge = |when| {
        let key = key_of(asked)?;
        Ok(Mode::Merge { key, when })
    };
    match said.or(command).unwrap_or("append") {
        "append" => Ok(Mode::Append),
        "merge" => merge(When::Upsert),
        "insert" => merge(When::Insert),
        "update" => merge(When::Update),
        "overwrite" => Ok(Mode::Overwrite { allow_empty }),
        other => Err(Status::invalid_argument(format!(
            "squire.mode={other}: use append, merge, insert, update or overwrite"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::TableDefinition;
    use super::*;
    use tonic::Code;
    use tonic::codegen::http::{HeaderName, HeaderValue};

    fn asked(options: &[(&str, &str)]) -> Result<Asked, Status> {
        let mut headers = HeaderMap::new();
        for (name, value) in options {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        Asked::of(&headers)
    }

    fn command(if_not_exist: i32, if_exists: i32) -> CommandStatementIngest {
        CommandStatementIngest {
            definition: Some(TableDefinition {
                if_not_exist,
                if_exists,
            }),
            table: "t".to_owned(),
            ..CommandStatementIngest::default()
        }
    }

    fn put(command: &CommandStatementIngest, options: &[(&str, &str)]) -> Result<Intent, Status> {
        let cmd = Any::of(CommandStatementIngest::NAME, command).encode_to_vec();
        let descriptor = FlightDescriptor {
            kind: FlightDescriptor::CMD,
            cmd: cmd.into(),
            path: Vec::new(),
        };
        Intent::of(descriptor, asked(options)?)
    }

    #[test]
    fn the_modes_of_adbc_say_what_becomes_of_the_table() {
        let replace = Mode::Overwrite { allow_empty: false };
        let modes = [
            ((1, 1), Mode::Append, Missing::MadeNew(None)),
            ((2, 2), Mode::Append, Missing::Fails),
            ((1, 3), replace.clone(), Missing::Made(None)),
            ((1, 2), Mode::Append, Missing::Made(None)),
            ((2, 3), replace, Missing::Fails),
        ];
        for ((if_not_exist, if_exists), mode, missing) in modes {
            let intent = put(&command(if_not_exist, if_exists), &[]).unwrap();
            assert_eq!((intent.mode, intent.missing), (mode, missing));
            assert_eq!(intent.belongs, Belongs::ToConnection);
        }
        for (if_not_exist, if_exists) in [(2, 1), (7, 7), (1, 0)] {
            let refused = put(&command(if_not_exist, if_exists), &[]).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn options_are_headers_or_stand_in_the_command() {
        let mut merge = command(1, 2);
        merge.options = [("squire.mode", "merge"), ("other.option", "x")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let intent = put(&merge, &[("squire.key", "a,b"), ("squire.batch_id", "7")]).unwrap();
        let key: Key = "a,b".parse().unwrap();
        assert_eq!(intent.missing, Missing::Made(Some(key.clone())));
        let when = When::Upsert;
        let key = Some(key);
        assert_eq!(intent.mode, Mode::Merge { key, when });
        assert_eq!(intent.batch.as_deref(), Some("7"));
    }

    #[test]
    fn an_option_that_cannot_be_meant_is_refused() {
        let append = command(2, 2);
        for (options, word) in [
            (&[("squire.modus", "merge")][..], "squire.modus"),
            (&[("squire.mode", "upsert")], "squire.mode=upsert"),
            (&[("squire.key", "id")], "squire.key"),
            (
                &[("squire.batch_id", "a"), ("squire.batch_id", "b")],
                "given twice",
            ),
            (&[("squire.allow_empty", "yes")], "squire.allow_empty=yes"),
        ] {
            let refused = put(&append, options).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().contains(word), "{}", refused.message());
        }
        let twice = [("squire.batch_id", "a"), ("squire.batch_id", "a")];
        assert!(put(&append, &twice).is_ok(), "said twice, and the same");
        let both = put(&command(1, 3), &[("squire.mode", "merge")]);
        assert!(both.unwrap_err().message().contains("replaces"));
        let mut temporary = command(1, 1);
        temporary.temporary = true;
        assert!(put(&temporary, &[]).is_err());
    }
}
