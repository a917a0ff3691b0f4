//! `bugler key`.

use super::Session;
use crate::cli;
use crate::output;
use anyhow::{Result, bail};
use bugler_protocol::operator::ServerKey;

pub(super) fn run(session: &Session, command: &cli::Key) -> Result<()> {
    let key: ServerKey = match command {
        cli::Key::Show => session.client.get("server/key")?,
        cli::Key::Rotate { yes } => {
            let question = "make another key for signing images?";
            if !yes && !output::confirmed(question)? {
                bail!("the key stays as it is");
            }
            let body = serde_json::json!({});
            session.client.post("server/key/rotate", &body)?
        }
    };
    if session.json {
        return output::json(&key);
    }
    println!("{}", key.key);
    for change in key.changes.iter().rev() {
        println!("took the place of {}", change.old);
    }
    Ok(())
}
