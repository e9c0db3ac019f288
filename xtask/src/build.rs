//! Calls cargo for this workspace: always `--release`, always the whole workspace (so that features, and with them compiled
//! dependencies, are the same for every command), always with the libtorch that was found.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::libtorch::{self, Libtorch};
use crate::machine;
use crate::run;

/// Arguments of `cargo build` for every program.
const PROGRAMS: [&str; 4] = ["--release", "--workspace", "--quiet", "--bins"];

/// cargo with what it needs.
pub struct Cargo {
    /// The libtorch that everything is linked with.
    pub libtorch: Libtorch,
}

impl Cargo {
    /// Find libtorch, or install it.
    ///
    /// # Errors
    /// See [`libtorch::find_or_install`].
    pub fn find() -> Result<Self> {
        Ok(Self { libtorch: libtorch::find_or_install()? })
    }

    /// `cargo SUBCOMMAND`, in the workspace's root.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(machine::workspace()).arg(subcommand);
        self.environment(&mut cargo);
        cargo
    }

    /// What cargo and the programs of this workspace find in their environment.
    pub fn environment(&self, command: &mut Command) {
        command.env("LIBTORCH", &self.libtorch.folder).env_remove("LIBTORCH_USE_PYTORCH");
        command.env("CARGO_TARGET_DIR", machine::target());
        if let Some(data) = machine::real_data() {
            command.env("GRAFT_DATA", data);
        }
        // `cargo run` describes xtask itself in these; a nested cargo or a test must not take them for its own.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                command.env_remove(name.as_ref());
            }
        }
    }

    /// Build every program.
    ///
    /// # Errors
    /// It does not compile.
    pub fn binaries(&self) -> Result<()> {
        run::step("compile operator, trainer, graft and test programs", || run::through(self.command("build").args(PROGRAMS)))
    }

    /// Build every program and every test, at once: the last programs leave processors idle alone.
    ///
    /// # Errors
    /// It does not compile.
    pub fn everything(&self) -> Result<()> {
        run::step("compile programs and tests", || run::through(self.command("build").args(PROGRAMS).arg("--tests")))
    }

    /// Build one program, with the features that the whole workspace asks for.
    ///
    /// # Errors
    /// It does not compile.
    pub fn binary(&self, name: &str) -> Result<()> {
        run::step(&format!("compile {name}"), || run::through(self.command("build").args(["--release", "--workspace", "--quiet", "--bin", name])))
    }

    /// A program that was built.
    ///
    /// # Errors
    /// There is no such file.
    pub fn built(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(self.path(name)?);
        self.environment(&mut command);
        Ok(command)
    }

    /// Path of a program that was built.
    ///
    /// # Errors
    /// There is no such file.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let path = machine::target().join("release").join(name);
        if !path.is_file() {
            bail!("{} is missing although it was just compiled; is CARGO_BUILD_TARGET set?", path.display());
        }
        Ok(path)
    }

    /// Write the generated files anew: the test that guards a file also writes it.
    ///
    /// # Errors
    /// It does not compile.
    pub fn codegen(&self) -> Result<()> {
        // Charts and kustomize come after the CRD and the roles that are in them.
        for (package, test, filter) in [
            ("graft-crds", "crd", "the_manifest_is_up_to_date"),
            ("graft-charts", "generated", "generated_files_are_up_to_date"),
            ("graft-tests", "charts", "rendered_files_are_up_to_date"),
        ] {
            let mut command = self.command("test");
            // Of the whole workspace: a package alone is built with other features of its dependencies, which takes minutes.
            command.args(["--release", "--quiet", "--workspace", "--test", test, filter]).env("GRAFT_BLESS", "1");
            run::step(&format!("generate the files of {package}"), || {
                run::through(&mut command).with_context(|| format!("generating the files of {package}"))
            })?;
        }
        Ok(())
    }
}
