//! The command that declares and withdraws indexes.

use super::Context;
use super::args::IndexArgs;
use crate::exit::exit_code;
use crate::place::table_name;
use serde_json::json;
use squire_engine::error::{ErrorKind, Result};
use squire_engine::maintenance::Oversight;
use squire_engine::store::state::IndexDeclaration;
use std::process::ExitCode;

pub(super) async fn index(context: &Context, args: IndexArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let table = table_name(&args.table)?;
    let name = args.name.unwrap_or_else(|| format!("{}_idx", args.column));
    if args.withdraw {
        let unwatched = Oversight::default();
        let report = store.withdraw_index(&table, &name, &unwatched).await?;
        let skipped = report.skipped.map(|why| format!("{why:?}").to_lowercase());
        let line = match &skipped {
            Some(why) => format!(
                "{table} was skipped ({why}): index {name} is declared no more and still built; withdraw it again later"
            ),
            None => format!("withdrew index {name} of {table}"),
        };
        let document =
            json!({ "table": table, "index": name, "withdrawn": true, "skipped": skipped });
        context.out.print(&document, &[line]);
        return Ok(match skipped {
            Some(_) => exit_code(ErrorKind::Refused),
            None => ExitCode::SUCCESS,
        });
    }
    let declaration = IndexDeclaration {
        column: args.column,
        kind: args.kind.unwrap_or_default(),
    };
    store.declare_index(&table, &name, declaration).await?;
    let line = format!("declared index {name} on {table}; maintenance builds it");
    let document = json!({ "table": table, "index": name });
    context.out.print(&document, &[line]);
    Ok(ExitCode::SUCCESS)
}
