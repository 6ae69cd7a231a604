//! The commands that change what columns and tables there are.

use super::Context;
use super::args::{AlterArgs, AlterCommand, AlterTypeArgs, DropArgs};
use super::write::{Told, submit};
use crate::formats::parse_type;
use crate::place::table_name;
use serde_json::json;
use squire_engine::commit::{Alteration, Drift, TableWrite, Write};
use squire_engine::error::{Error, Result};
use std::process::ExitCode;

pub(super) async fn alter(context: &Context, args: AlterArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let data_type = |args: &AlterTypeArgs| {
        parse_type(&args.data_type).map_err(|e| Error::invalid(format!("{}: {e}", args.column)))
    };
    let (alteration, mut flags) = match args.change {
        AlterCommand::Add(args) => {
            let (data_type, column) = (data_type(&args)?, args.column);
            (Alteration::Add { column, data_type }, args.commit)
        }
        AlterCommand::Drop { column, commit } => (Alteration::Drop { column }, commit),
        AlterCommand::Rename {
            column,
            name,
            commit,
        } => (Alteration::Rename { column, name }, commit),
        AlterCommand::Widen(args) => {
            let (data_type, column) = (data_type(&args)?, args.column);
            (Alteration::Widen { column, data_type }, args.commit)
        }
    };
    let table = table_name(&args.table)?;
    if flags.message.is_empty() {
        flags.message = alteration.to_string();
    }
    let write = TableWrite {
        table,
        write: Write::Alter(alteration),
    };
    submit(context, &store, vec![write], flags, Told::default()).await
}

pub(super) async fn drop(context: &Context, args: DropArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let table = table_name(&args.table)?;
    let drift = match args.discard_drift {
        true => Drift::Discard,
        false => Drift::Refuse,
    };
    if args.dry_run {
        let version = store.preview_drop(&table, drift).await?;
        let tables = json!([{ "table": table, "version": version }]);
        let document = json!({ "outcome": "dry_run", "tables": tables });
        let line = format!("would drop {table} at version {version}");
        context.out.print(&document, &[line]);
        return Ok(ExitCode::SUCCESS);
    }
    let message = match args.message.as_str() {
        "" => "drop",
        message => message,
    };
    let dropped = store.drop_table(&table, drift, message).await?;
    let version = dropped.tables.first().map_or(0, |change| change.from);
    let line = format!(
        "dropped {table} at version {version} ({}); snapshots from before show it until the retention has passed",
        dropped.op
    );
    let document = json!({ "outcome": "committed", "op": dropped.op, "tables": dropped.tables });
    context.out.print(&document, &[line]);
    Ok(ExitCode::SUCCESS)
}
