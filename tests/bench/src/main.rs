//! What SIVSHM's benchmarks compare with, and what they measure doorbells by, as one static program
//! that runs on the host and in guests (`docs/performance.md`).
//!
//! Each subcommand prints one line of JSON with raw samples; `cargo xtask bench` does the arithmetic.
#![deny(unsafe_code)]

mod carrier;
mod doorbell;
mod keep;
mod local;
mod opening;
mod raw;
mod ring;
mod stripes;
mod tcp;
mod tls;
mod usage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measure one thing and print it as JSON.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Tls(tls::Args),
    Count(local::Args),
    TcpMapper(tcp::MapperArgs),
    TcpReducer(tcp::ReducerArgs),
    Ping(doorbell::PingArgs),
    Pong(doorbell::PongArgs),
    OpenWriter(opening::WriterArgs),
    OpenReader(opening::ReaderArgs),
    Keep(keep::Args),
    Ring(ring::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Tls(args) => tls::run(&args),
        Task::Count(args) => local::run(&args),
        Task::TcpMapper(args) => tcp::map(&args),
        Task::TcpReducer(args) => tcp::reduce(&args),
        Task::Ping(args) => doorbell::ping(&args),
        Task::Pong(args) => doorbell::pong(&args),
        Task::OpenWriter(args) => opening::write(&args),
        Task::OpenReader(args) => opening::read(&args),
        Task::Keep(args) => keep::run(&args),
        Task::Ring(args) => ring::run(&args),
    };
    match result {
        Ok(event) => {
            println!("{event}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
