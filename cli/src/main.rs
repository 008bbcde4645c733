//! The `compile-model` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    compile_model::main()
}
