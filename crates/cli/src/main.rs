//! The fourfold program: wires configuration, machine and features together. Everything with a behaviour worth testing on
//! its own lives in the crates below.

mod args;
mod check;
mod demo;
mod doctor;
mod foreign;
mod load;
mod logging;
mod machine;
mod origin;
mod plan;
mod run;
mod show;
mod targets;

use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fourfold: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Schema => {
            println!("{}", serde_json::to_string_pretty(&fourfold_config::json_schema())?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => {
            clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "fourfold", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor(args) => doctor::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Origin(args) => origin::run(&args),
        Command::Load(command) => load::run(&command),
        Command::Show(command) => show::run(&command),
        Command::Demo(args) => demo::run(&args),
    }
}
