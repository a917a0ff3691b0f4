//! `bugler`: the server and every client command in one program.

mod cli;
mod client;
mod commands;
mod output;
mod unsafe_memory;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A reader that went away (`bugler events | head`) is not an error of ours.
            if error.chain().any(|cause| {
                cause
                    .downcast_ref::<std::io::Error>()
                    .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
            }) {
                return ExitCode::SUCCESS;
            }
            eprintln!("bugler: {error:#}");
            ExitCode::from(client::exit_code(&error))
        }
    }
}
