//! The binary: its command line is in [`linkwatch::cli`].

fn main() -> std::process::ExitCode {
    linkwatch::cli::main(std::env::args_os().skip(1))
}
