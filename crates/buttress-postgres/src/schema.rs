//! The schema of the store: creates it, and compares it with what the migration creates.

use std::time::Duration;

use tokio_postgres::{Client, Error};

use crate::PostgresStore;

/// The lock held while creating the schema, so that two stores do not create it at once.
const MIGRATION_LOCK: i64 = 0x6275_7474_7265_7373;

/// The description of the table and the sequence after the migration, and a comment.
const RELATIONS: &str = include_str!("0001.txt");

/// Separates the name of a function from its body.
const BODY: &str = ": body ";

/// Selects the description of what the names of the store lead to, one row for each part.
const DESCRIBE: &str = include_str!("describe.sql");

/// Creates the schema if it does not exist, and returns its description.
pub(crate) async fn prepare(client: &mut Client, patience: Duration) -> Result<Vec<String>, Error> {
    let transaction = client.transaction().await?;
    // The timeouts of the session are for single steps.
    let patience = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX).max(1);
    let limits =
        format!("SET LOCAL statement_timeout = {patience}; SET LOCAL lock_timeout = {patience}");
    transaction.batch_execute(&limits).await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await?;
    // A separate statement, because it must see the commit of the previous holder of the lock.
    let there: bool = transaction
        .query_one("SELECT to_regclass('buttress_idempotency') IS NOT NULL", &[])
        .await?
        .try_get(0)?;
    if !there {
        transaction.batch_execute(PostgresStore::MIGRATION).await?;
    }
    let rows = transaction.query(DESCRIBE, &[]).await?;
    let found = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    transaction.commit().await?;
    Ok(found)
}

/// Returns the description of the schema that the migration creates.
fn expected() -> impl Iterator<Item = String> {
    let relations = RELATIONS.lines().filter(|line| !line.starts_with('#')).map(str::to_owned);
    let functions = PostgresStore::MIGRATION.split("CREATE FUNCTION ").skip(1);
    relations.chain(functions.filter_map(|function| {
        let name = function.split('(').next()?;
        Some(format!("function {name}{BODY}{}", plain(function.split("$$").nth(1)?)))
    }))
}

/// Returns the body of a function without its comments, and with single spaces.
fn plain(body: &str) -> String {
    let (mut code, mut rest) = (String::new(), body);
    while let Some(start) = [rest.find("--"), rest.find("/*")].into_iter().flatten().min() {
        let (before, comment) = rest.split_at(start);
        let end = if comment.starts_with("--") { "\n" } else { "*/" };
        code.extend([before, " "]);
        rest = comment.split_once(end).map_or("", |(_, after)| after);
    }
    code.push_str(rest);
    code.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the differences between the schema that was found and what the migration creates.
///
/// With `accept_loss`, a table or a sequence may be unlogged.
pub(crate) fn difference(found: &[String], accept_loss: bool) -> Option<String> {
    let found: Vec<String> = found
        .iter()
        .map(|part| match (part.split_once(BODY), part.strip_suffix(": unlogged")) {
            (Some((name, body)), _) => format!("{name}{BODY}{}", plain(body)),
            (None, Some(name)) if accept_loss => format!("{name}: permanent"),
            _ => part.clone(),
        })
        .collect();
    let expected: Vec<String> = expected().collect();
    let missing = expected.iter().filter(|part| !found.contains(part));
    let missing: Vec<String> = missing.map(|part| format!("missing {}", named(part))).collect();
    // If nothing is missing, an addition matters only if it can make an insert fail.
    let matters = |part: &&String| {
        !missing.is_empty() || part.starts_with("unique") || part.ends_with("not null")
    };
    let added = found.iter().filter(|part| !expected.contains(part) && !part.contains(BODY));
    let added: Vec<String> = added.filter(matters).map(|part| format!("found `{part}`")).collect();
    let differences = [missing, added].concat();
    (!differences.is_empty()).then(|| differences.join(", "))
}

/// Names a part in one line. A function has a longer description.
fn named(part: &str) -> String {
    match part.split_once(BODY) {
        Some((function, _)) => format!("`{function}` with this body"),
        None => format!("`{part}`"),
    }
}
