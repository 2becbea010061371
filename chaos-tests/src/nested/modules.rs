//! Kernel modules of an unpacked kernel package, in loading order.
//!
//! `modules.dep` is made when a kernel is *installed*, so an unpacked package has
//! none; the same facts are in each module's `.modinfo` section, as `key=value`
//! strings ended by NUL, which is what is read here. Compressed modules are
//! refused: the release used here ships none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A kernel has a few thousand modules; more folder entries than this is no kernel.
const MAX_ENTRIES: usize = 50_000;

/// Why a set of modules could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// The package has no such module.
    #[error("the kernel package has no module `{0}`")]
    Missing(String),
    /// The file does not say what it needs.
    #[error("the module {0} does not list its dependencies")]
    NoModinfo(PathBuf),
    /// The tree could not be read.
    #[error("could not read kernel modules at {path}")]
    Read {
        /// What was being read.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// One module to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its file name, such as `virtio_blk.ko`.
    pub file: String,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// The modules of one kernel, by name.
#[derive(Debug)]
pub struct ModuleTree {
    files: BTreeMap<String, PathBuf>,
}

impl ModuleTree {
    /// Finds every `.ko` file below `root`.
    ///
    /// # Errors
    /// When the tree cannot be read.
    pub fn scan(root: &Path) -> Result<Self, ModulesError> {
        let mut files = BTreeMap::new();
        let mut folders = vec![root.to_owned()];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            let read = |source| ModulesError::Read {
                path: folder.clone(),
                source,
            };
            for entry in fs::read_dir(&folder).map_err(read)? {
                let entry = entry.map_err(read)?;
                seen += 1;
                if seen > MAX_ENTRIES {
                    return Err(read(io::ErrorKind::FileTooLarge.into()));
                }
                let path = entry.path();
                if entry.file_type().map_err(read)?.is_dir() {
                    folders.push(path);
                } else if let Some(name) = module_name(&path) {
                    files.insert(name, path);
                }
            }
        }
        Ok(Self { files })
    }

    /// `wanted` and everything they need, each after what it depends on.
    ///
    /// # Errors
    /// When a module is missing or unreadable.
    pub fn in_loading_order(&self, wanted: &[&str]) -> Result<Vec<Module>, ModulesError> {
        let mut order = Vec::new();
        let mut visited = BTreeSet::new();
        for name in wanted {
            self.visit(&normalized(name), &mut visited, &mut order)?;
        }
        Ok(order)
    }

    /// Depth first; `visited` also ends a cycle, which the kernel's build forbids.
    fn visit(
        &self,
        name: &str,
        visited: &mut BTreeSet<String>,
        order: &mut Vec<Module>,
    ) -> Result<(), ModulesError> {
        if !visited.insert(name.to_owned()) {
            return Ok(());
        }
        let path = self
            .files
            .get(name)
            .ok_or_else(|| ModulesError::Missing(name.to_owned()))?;
        let data = fs::read(path).map_err(|source| ModulesError::Read {
            path: path.clone(),
            source,
        })?;
        let needs = dependencies(&data).ok_or_else(|| ModulesError::NoModinfo(path.clone()))?;
        for dependency in needs {
            self.visit(&dependency, visited, order)?;
        }
        order.push(Module {
            file: format!("{name}.ko"),
            data,
        });
        Ok(())
    }
}

/// The kernel treats `-` and `_` in module names as the same.
fn normalized(name: &str) -> String {
    name.replace('-', "_")
}

fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    file.strip_suffix(".ko").map(normalized)
}

/// The `depends=` string of a module, taken apart.
fn dependencies(module: &[u8]) -> Option<Vec<String>> {
    const KEY: &[u8] = b"\0depends=";
    let start = module.windows(KEY.len()).position(|at| at == KEY)? + KEY.len();
    let length = module[start..].iter().position(|&byte| byte == 0)?;
    let list = std::str::from_utf8(&module[start..start + length]).ok()?;
    let names = list.split(',').filter(|name| !name.is_empty());
    Some(names.map(normalized).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(modules: &[(&str, &str)]) -> (tempfile::TempDir, ModuleTree) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("drivers/deep")).unwrap();
        for (name, depends) in modules {
            let data = format!("\x7fELF\0license=GPL\0depends={depends}\0name=x\0");
            let file = root.path().join(format!("drivers/deep/{name}.ko"));
            fs::write(file, data).unwrap();
        }
        let tree = ModuleTree::scan(root.path()).unwrap();
        (root, tree)
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.file.as_str()).collect()
    }

    #[test]
    fn a_module_comes_after_everything_it_needs_and_once() {
        let (_root, tree) = tree(&[
            ("virtio_blk", "virtio,virtio_ring"),
            ("virtio_ring", "virtio"),
            ("virtio", ""),
            ("virtio_net", "virtio_ring,net-failover"),
            ("net_failover", ""),
        ]);
        let order = tree
            .in_loading_order(&["virtio_blk", "virtio-net"])
            .unwrap();
        assert_eq!(
            names(&order),
            [
                "virtio.ko",
                "virtio_ring.ko",
                "virtio_blk.ko",
                "net_failover.ko",
                "virtio_net.ko"
            ]
        );
    }

    #[test]
    fn a_missing_dependency_is_named() {
        let (_root, tree) = tree(&[("kvm-amd", "kvm,irqbypass"), ("kvm", "")]);
        let error = tree.in_loading_order(&["kvm_amd"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the kernel package has no module `irqbypass`"
        );
    }

    #[test]
    fn a_file_without_module_facts_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("odd.ko"), b"\0depends=never ended").unwrap();
        let tree = ModuleTree::scan(root.path()).unwrap();
        let error = tree.in_loading_order(&["odd"]).unwrap_err();
        assert!(matches!(error, ModulesError::NoModinfo(_)), "{error}");
    }
}
