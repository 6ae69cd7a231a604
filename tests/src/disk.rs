//! What a power cut leaves of a process's writes: its system calls as `strace` recorded them, and the disk as far as
//! they have made it durable.
//!
//! A disk may keep a file's content without its name, or its name without its content, until each was synced. Two disks
//! stand for all that lies between: [`Disk::without_names`] has lost every name that was not synced, and
//! [`Disk::without_contents`] has every name, those of files whose content was not synced with nothing in them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// One effect on the disk, in the order in which they must be taken to have happened: changes when they began, syncs
/// when they had returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A file was made.
    Make(PathBuf),
    /// A directory was made.
    MakeDir(PathBuf),
    /// A file grew.
    Write(PathBuf, Vec<u8>),
    /// A second name.
    Link(PathBuf, PathBuf),
    /// Another name.
    Rename(PathBuf, PathBuf),
    /// A name is gone.
    Unlink(PathBuf),
    /// A file's content or a directory's names are durable.
    Sync(PathBuf),
    /// All is.
    SyncAll,
    /// The process answered on standard output.
    Answer,
}

/// What `strace` is asked to record.
pub const STRACE: [&str; 7] = [
    "-f",
    "-y",
    "-xx",
    "-s",
    "16777216",
    "-e",
    "trace=openat,write,fsync,fdatasync,syncfs,link,linkat,rename,renameat,renameat2,unlink,mkdir",
];

/// Reads what `strace` with [`STRACE`] wrote.
pub fn effects(log: &str) -> Vec<Effect> {
    let mut begun: HashMap<&str, (usize, &str)> = HashMap::new();
    let mut found: Vec<(usize, Effect)> = Vec::new();
    for (end, line) in log.lines().enumerate() {
        let Some((pid, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        if let Some(head) = call.strip_suffix(" <unfinished ...>") {
            begun.insert(pid, (end, head));
            continue;
        }
        let (begin, call) = match call.strip_prefix("<... ") {
            None => (end, call.to_owned()),
            Some(resumed) => {
                let (begin, head) = begun.remove(pid).expect("a call that was begun");
                let tail = resumed.split_once(" resumed>").expect("a resumed call").1;
                (begin, format!("{head}{tail}"))
            }
        };
        if let Some(effect) = effect(&call) {
            let syncs = matches!(effect, Effect::Sync(_) | Effect::SyncAll);
            found.push((if syncs { end } else { begin }, effect));
        }
    }
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, effect)| effect).collect()
}

fn effect(call: &str) -> Option<Effect> {
    let (name, rest) = call.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    if result.starts_with('-') || result.starts_with('?') {
        return None;
    }
    let quoted: Vec<Vec<u8>> = arguments.split('"').skip(1).step_by(2).map(bytes).collect();
    let path = |i: usize| {
        Some(PathBuf::from(
            String::from_utf8(quoted.get(i)?.clone()).ok()?,
        ))
    };
    // `-y`: the path of a descriptor stands behind its number.
    let open = |text: &str| -> Option<PathBuf> {
        let hex = text.split_once('<')?.1.split('>').next()?;
        Some(PathBuf::from(String::from_utf8(bytes(hex)).ok()?))
    };
    Some(match name {
        "openat" if arguments.contains("O_CREAT") => Effect::Make(path(0)?),
        "mkdir" => Effect::MakeDir(path(0)?),
        "write" if arguments.starts_with("1<") => Effect::Answer,
        "write" => Effect::Write(open(arguments)?, quoted.first()?.clone()),
        "link" | "linkat" => Effect::Link(path(0)?, path(1)?),
        "rename" | "renameat" | "renameat2" => Effect::Rename(path(0)?, path(1)?),
        "unlink" => Effect::Unlink(path(0)?),
        "fsync" | "fdatasync" => Effect::Sync(open(arguments)?),
        "syncfs" => Effect::SyncAll,
        _ => return None,
    })
}

/// `\x2f\x74` as bytes.
fn bytes(text: &str) -> Vec<u8> {
    let hex = text.split("\\x").skip(1);
    hex.filter_map(|h| u8::from_str_radix(h.get(..2)?, 16).ok())
        .collect()
}

#[derive(Debug, Clone, Default)]
struct File {
    content: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory,
    File(usize),
}

/// Paths below a root with their content; `None` is a directory.
pub type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// What stands below one directory, and what of it would outlive a power cut now.
#[derive(Debug, Clone)]
pub struct Disk {
    root: PathBuf,
    files: Vec<File>,
    names: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
}

impl Disk {
    /// What stands below `root` now, all of it durable.
    pub fn of(root: &Path) -> Self {
        let mut disk = Self {
            root: root.to_path_buf(),
            files: Vec::new(),
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
        };
        for path in crate::tree(root) {
            let at = root.join(&path);
            let node = if at.is_dir() {
                Node::Directory
            } else {
                let content = std::fs::read(&at).expect("a file");
                disk.new_file(content.clone(), content)
            };
            disk.names.insert(at, node);
        }
        disk.durable = disk.names.clone();
        disk
    }

    fn new_file(&mut self, content: Vec<u8>, synced: Vec<u8>) -> Node {
        self.files.push(File { content, synced });
        Node::File(self.files.len() - 1)
    }

    fn file(&mut self, path: &Path) -> Option<&mut File> {
        match self.names.get(path) {
            Some(Node::File(file)) => Some(&mut self.files[*file]),
            _ => None,
        }
    }

    /// Takes one effect. What happens outside the root does not matter.
    pub fn take(&mut self, effect: &Effect) {
        match effect {
            Effect::Make(path) if path.starts_with(&self.root) => {
                let file = self.new_file(Vec::new(), Vec::new());
                self.names.entry(path.clone()).or_insert(file);
            }
            Effect::MakeDir(path) if path.starts_with(&self.root) => {
                self.names.insert(path.clone(), Node::Directory);
            }
            Effect::Write(path, more) => {
                if let Some(file) = self.file(path) {
                    file.content.extend_from_slice(more);
                }
            }
            Effect::Link(from, to) => {
                if let Some(node) = self.names.get(from).copied() {
                    self.names.insert(to.clone(), node);
                }
            }
            Effect::Rename(from, to) => {
                if let Some(node) = self.names.remove(from) {
                    self.names.insert(to.clone(), node);
                }
            }
            Effect::Unlink(path) => {
                self.names.remove(path);
            }
            Effect::Sync(path) => self.sync(path),
            Effect::SyncAll => {
                self.durable = self.names.clone();
                for file in &mut self.files {
                    file.synced.clone_from(&file.content);
                }
            }
            Effect::Make(_) | Effect::MakeDir(_) | Effect::Answer => {}
        }
    }

    fn sync(&mut self, path: &Path) {
        if let Some(file) = self.file(path) {
            file.synced.clone_from(&file.content);
            return;
        }
        let inside = |at: &PathBuf| at.parent() == Some(path);
        self.durable.retain(|at, _| !inside(at));
        let now = self.names.iter().filter(|(at, _)| inside(at));
        self.durable
            .extend(now.map(|(at, node)| (at.clone(), *node)));
    }

    /// What a power cut would take now of what stands there, but for what matters to nobody: names of files that are
    /// still being written, and Lance's hint at the latest version.
    pub fn loose(&self) -> Vec<PathBuf> {
        let matters = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            !name.contains('#') && !name.contains(".tmp") && name != "latest_version_hint.json"
        };
        let lost = self.names.iter().filter(|(path, node)| {
            let unsynced = match node {
                Node::File(file) => self.files[*file].content != self.files[*file].synced,
                Node::Directory => false,
            };
            unsynced || self.durable.get(*path) != Some(*node)
        });
        lost.map(|(path, _)| path.clone()).filter(matters).collect()
    }

    /// After a power cut that took every name that was not synced.
    pub fn without_names(&self) -> Tree {
        let mut tree = Tree::new();
        for (path, node) in &self.durable {
            // In order of names: a directory comes before what is in it.
            let parent = path.parent().expect("below the root");
            let at = path.strip_prefix(&self.root).expect("below the root");
            if parent == self.root || self.durable.contains_key(parent) {
                tree.insert(at.to_path_buf(), self.after_cut(*node));
            }
        }
        tree
    }

    /// After a power cut that took every content that was not synced, and no name.
    pub fn without_contents(&self) -> Tree {
        let at = |path: &PathBuf| path.strip_prefix(&self.root).expect("below").to_path_buf();
        let names = self.names.iter();
        names
            .map(|(path, node)| (at(path), self.after_cut(*node)))
            .collect()
    }

    fn after_cut(&self, node: Node) -> Option<Vec<u8>> {
        match node {
            Node::Directory => None,
            Node::File(file) => Some(self.files[file].synced.clone()),
        }
    }
}

/// Makes `tree` below `root`.
pub fn restore(tree: &Tree, root: &Path) {
    for (path, content) in tree {
        let at = root.join(path);
        let made = match content {
            None => std::fs::create_dir_all(&at),
            Some(content) => std::fs::create_dir_all(at.parent().expect("a parent"))
                .and_then(|()| std::fs::write(&at, content)),
        };
        made.expect("the disk after the cut");
    }
}
