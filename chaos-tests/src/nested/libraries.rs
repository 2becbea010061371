//! The shared libraries that a program needs, as its own loader resolves them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::external::{self, ExternalError};

const LIMIT: Duration = Duration::from_secs(30);

/// One resolved library, the loader itself included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// The name it is asked for by: a bare name, or for the loader a path.
    pub name: String,
    /// Where it is on this machine.
    pub path: PathBuf,
}

/// The libraries of `program`, resolved with this machine's loader.
///
/// A statically linked program has none.
///
/// # Errors
/// When the machine has no `ldd` or it fails.
pub fn of_machine_program(program: &Path) -> Result<Vec<Library>, ExternalError> {
    let mut command = Command::new("ldd");
    command.env("LC_ALL", "C").arg(program);
    match external::run(&mut command, LIMIT) {
        Ok(listing) => Ok(parse(&listing)),
        Err(ExternalError::Failed { stderr, .. }) if stderr.contains("not a dynamic") => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// The libraries of `program`, resolved with another `loader` and its `folders`.
///
/// # Errors
/// When that loader does not run or something is missing.
pub fn with_loader(
    loader: &Path,
    folders: &[PathBuf],
    program: &Path,
) -> Result<Vec<Library>, ExternalError> {
    let mut command = Command::new(loader);
    command
        .arg("--library-path")
        .arg(search_path(folders))
        .arg("--list")
        .arg(program);
    let mut libraries = parse(&external::run(&mut command, LIMIT)?);
    // The loader names itself by the path it was started with.
    libraries.retain(|library| library.path != loader);
    Ok(libraries)
}

/// `folders` in the form that loaders read.
pub fn search_path(folders: &[PathBuf]) -> String {
    let folders: Vec<_> = folders
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    folders.join(":")
}

/// Lines are `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader; the
/// kernel's own vdso has a bare name and no path.
fn parse(listing: &str) -> Vec<Library> {
    listing
        .lines()
        .filter_map(|line| {
            let (entry, _address) = line.trim().rsplit_once(" (0x")?;
            let (name, path) = entry.split_once(" => ").unwrap_or((entry, entry));
            path.starts_with('/').then(|| Library {
                name: name.to_owned(),
                path: PathBuf::from(path),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_taken_and_the_vdso_is_not() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                       \tlibc.so.6 => /lib/libc.so.6 (0x00007f01)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f02)\n";
        let found: Vec<_> = parse(listing)
            .into_iter()
            .map(|library| (library.name, library.path.display().to_string()))
            .collect();
        let expected = [
            ("libc.so.6", "/lib/libc.so.6"),
            ("/lib64/ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2"),
        ];
        assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn this_very_program_needs_a_c_library() {
        let program = std::env::current_exe().unwrap();
        let libraries = of_machine_program(&program).unwrap();
        let libc = libraries.iter().find(|it| it.name.starts_with("libc.so"));
        assert!(libc.expect("linked with libc").path.exists());
    }
}
