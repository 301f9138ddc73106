//! Where the admin listener is: its socket's path, who may use it, and how others find it.
//!
//! Owns: the folders in which sockets are looked for, and the socket's file from bind to removal. Refuses: to take the place of
//! an instance that answers, to replace what is no socket, and a folder that others could have made.
//! Driven by: the program at its start and end, and by clients.
//!
//! A socket appears under its name only once it is complete: it is made in a folder that only its owner can enter, gets its
//! mode there, and is then moved. So nobody connects to it before it is the owner's alone, and a new instance replaces what a
//! killed one left behind in one step.

use fourfold_config::AdminListen;
use std::fmt;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// systemd makes this one for a unit with RuntimeDirectory= (systemd.exec(5)).
const UNIT_FOLDER: &str = "RUNTIME_DIRECTORY";
/// Where a unit's is, and that of root.
const SYSTEM_FOLDER: &str = "/run/fourfold";
/// A user's own (XDG Base Directory Specification).
const USER_FOLDER: &str = "XDG_RUNTIME_DIR";
/// Instances that are looked at to find one.
const INSTANCES_MAX: usize = 256;
/// Of an instance's name, as much as a path has room for.
const NAME_BYTES_MAX: usize = 48;

/// Where an instance can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
            Place::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// Why there is no admin listener.
#[derive(Debug)]
pub struct PlaceError {
    what: String,
    error: Option<io::Error>,
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.error.as_ref().map_or(Ok(()), |error| write!(f, ": {error}"))
    }
}

impl std::error::Error for PlaceError {}

fn failed(what: impl Into<String>, error: io::Error) -> PlaceError {
    PlaceError { what: what.into(), error: Some(error) }
}

fn refused(what: impl Into<String>) -> PlaceError {
    PlaceError { what: what.into(), error: None }
}

/// A listening socket, of which only the file's owner knows when to remove it.
pub struct Bound {
    pub place: Place,
    pub(crate) listener: Listener,
    pub(crate) file: Option<SocketFile>,
}

pub(crate) enum Listener {
    Unix(UnixListener),
    Tcp(std::net::TcpListener),
}

/// `None`: none is wanted. `name`: of the instance, for the default socket's.
pub fn bind(listen: &AdminListen, name: &str) -> Result<Option<Bound>, PlaceError> {
    match listen {
        AdminListen::Off => Ok(None),
        AdminListen::Tcp(address) => {
            let listener =
                std::net::TcpListener::bind(address).map_err(|error| failed(address.to_string(), error))?;
            listener.set_nonblocking(true).map_err(|error| failed(address.to_string(), error))?;
            let place = Place::Tcp(listener.local_addr().unwrap_or(*address));
            Ok(Some(Bound { place, listener: Listener::Tcp(listener), file: None }))
        }
        AdminListen::Unix(path) => bind_unix(Path::new(path)).map(Some),
        AdminListen::Default => {
            let folder = own_folder()?;
            sweep(&folder)?;
            let name = file_name(name);
            match bind_unix(&folder.join(format!("{name}.sock"))) {
                Err(error)
                    if error.error.as_ref().is_some_and(|error| error.kind() == ErrorKind::AddrInUse) =>
                {
                    bind_unix(&folder.join(format!("{name}-{}.sock", std::process::id()))).map(Some)
                }
                result => result.map(Some),
            }
        }
    }
}

/// What of a name can stand in a path.
fn file_name(name: &str) -> String {
    let harmless = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = name.chars().map(harmless).take(NAME_BYTES_MAX).collect();
    let name = name.trim_start_matches('.');
    if name.is_empty() { "fourfold".to_owned() } else { name.to_owned() }
}

/// What the environment and the user decide.
struct Surroundings {
    unit: Option<PathBuf>,
    user: Option<PathBuf>,
    temporary: PathBuf,
    uid: u32,
}

impl Surroundings {
    fn here() -> Self {
        let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // Of several folders of a unit the first is the one that it names first.
        let first = |all: PathBuf| PathBuf::from(all.to_string_lossy().split(':').next().unwrap_or_default());
        Self {
            unit: folder(UNIT_FOLDER).map(first),
            user: folder(USER_FOLDER).map(|own| own.join("fourfold")),
            temporary: std::env::temp_dir(),
            uid: fs::metadata("/proc/self").map_or(u32::MAX, |own| own.uid()),
        }
    }

    fn temporary(&self) -> PathBuf {
        self.temporary.join(format!("fourfold-{}", self.uid))
    }

    /// Where this process puts its socket.
    fn own(&self) -> PathBuf {
        match (&self.unit, &self.user) {
            (Some(unit), _) => unit.clone(),
            _ if self.uid == 0 => PathBuf::from(SYSTEM_FOLDER),
            (None, Some(user)) => user.clone(),
            (None, None) => self.temporary(),
        }
    }

    /// Where others may have put theirs.
    fn all(&self) -> Vec<PathBuf> {
        let known = [
            self.unit.clone(),
            Some(PathBuf::from(SYSTEM_FOLDER)),
            self.user.clone(),
            Some(self.temporary()),
        ];
        let mut all: Vec<PathBuf> = known.into_iter().flatten().collect();
        all.dedup();
        all
    }
}

fn own_folder() -> Result<PathBuf, PlaceError> {
    let here = Surroundings::here();
    let folder = here.own();
    // Others may look into root's, to be told that they may not ask.
    let mode = if folder == Path::new(SYSTEM_FOLDER) { 0o755 } else { 0o700 };
    match DirBuilder::new().mode(mode).create(&folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(failed(format!("the folder {}", folder.display()), error))
        }
        _ => trusted(&folder, here.uid).map(|()| folder),
    }
}

/// In a folder that everybody may write to, somebody else may have been first.
fn trusted(folder: &Path, uid: u32) -> Result<(), PlaceError> {
    let what = || format!("the folder {}", folder.display());
    let found = fs::symlink_metadata(folder).map_err(|error| failed(what(), error))?;
    let others_write = found.permissions().mode() & 0o022 != 0;
    match found.is_dir() && (found.uid() == uid || found.uid() == 0) && !others_write {
        true => Ok(()),
        false => Err(refused(format!("{} is not this user's own, or others may write to it", what()))),
    }
}

/// Removes what killed instances left behind: under its name a socket is there only while somebody listens, or after a kill.
fn sweep(folder: &Path) -> Result<(), PlaceError> {
    let what = || format!("the folder {}", folder.display());
    let lock = File::open(folder).map_err(|error| failed(what(), error))?;
    lock.lock().map_err(|error| failed(what(), error))?;
    for path in sockets_in(folder) {
        if UnixStream::connect(&path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            let _ = fs::remove_file(&path);
        }
    }
    Ok(())
}

fn bind_unix(path: &Path) -> Result<Bound, PlaceError> {
    let what = || format!("the socket {}", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Held while it is found out who else is there, so that two that start together do not both find nobody.
    let lock =
        File::open(folder).map_err(|error| failed(format!("the folder {}", folder.display()), error))?;
    lock.lock().map_err(|error| failed(what(), error))?;
    make_way(path)?;
    let (listener, file) = make(folder, path).map_err(|error| failed(what(), error))?;
    listener.set_nonblocking(true).map_err(|error| failed(what(), error))?;
    Ok(Bound { place: Place::Unix(path.to_owned()), listener: Listener::Unix(listener), file: Some(file) })
}

/// What is there may be replaced if nobody listens to it any more.
fn make_way(path: &Path) -> Result<(), PlaceError> {
    let what = || format!("the socket {}", path.display());
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(what(), error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(refused(format!("{} exists and is no socket", path.display())));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => {
            let taken = io::Error::new(ErrorKind::AddrInUse, "another instance answers there");
            Err(failed(what(), taken))
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(failed(what(), error)),
    }
}

fn make(folder: &Path, path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let private = folder.join(format!(".ff{}", std::process::id()));
    // One of the same number may have been killed here.
    let _ = fs::remove_dir_all(&private);
    DirBuilder::new().mode(0o700).create(&private)?;
    let inside = private.join("s");
    let made = UnixListener::bind(&inside).and_then(|listener| {
        fs::set_permissions(&inside, Permissions::from_mode(0o600))?;
        let inode = fs::metadata(&inside)?.ino();
        fs::rename(&inside, path)?;
        Ok((listener, SocketFile { path: path.to_owned(), inode }))
    });
    let _ = fs::remove_dir_all(&private);
    made
}

/// Gone with the instance, unless another one has taken its place.
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What looking for running instances comes to.
#[derive(Debug, Default)]
pub struct Found {
    pub running: Vec<PathBuf>,
    /// There, and not for this user.
    pub forbidden: Vec<PathBuf>,
}

/// Sockets in the usual folders behind which somebody listens.
#[must_use]
pub fn find() -> Found {
    let here = Surroundings::here();
    let mut found = Found::default();
    for folder in here.all() {
        find_in(&folder, &mut found);
    }
    found.running.sort();
    found.running.dedup();
    found
}

fn find_in(folder: &Path, found: &mut Found) {
    for path in sockets_in(folder).take(INSTANCES_MAX) {
        match UnixStream::connect(&path) {
            Ok(_) => found.running.push(path),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => found.forbidden.push(path),
            Err(_) => {}
        }
    }
}

fn sockets_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|ext| ext == "sock"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Gone afterwards.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name = format!("ffp-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }
        fn at(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_socket_is_its_owners_alone_and_goes_with_the_instance() {
        let folder = Folder::new();
        let path = folder.at("a.sock");
        let bound = bind_unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        drop(bound);
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn what_a_killed_instance_left_behind_is_replaced() {
        let folder = Folder::new();
        let path = folder.at("a.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(UnixStream::connect(&path).is_err(), "nobody is there");
        let bound = bind_unix(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn sockets_of_killed_instances_do_not_pile_up() {
        let folder = Folder::new();
        for n in 0..5 {
            drop(UnixListener::bind(folder.at(&format!("dead-{n}.sock"))).unwrap());
        }
        fs::write(folder.at("notes.txt"), "data").unwrap();
        let live = bind_unix(&folder.at("live.sock")).unwrap();
        sweep(&folder.0).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(&folder.0).unwrap().flatten().map(|one| one.file_name()).collect();
        left.sort();
        assert_eq!(left, ["live.sock", "notes.txt"]);
        drop(live);
    }

    #[test]
    fn an_instance_that_answers_keeps_its_place() {
        let folder = Folder::new();
        let path = folder.at("a.sock");
        let first = bind_unix(&path).unwrap();
        let error = bind_unix(&path).err().unwrap();
        assert!(error.to_string().contains("another instance answers there"), "{error}");
        assert!(UnixStream::connect(&path).is_ok());
        drop(first);
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = Folder::new();
        let path = folder.at("precious");
        fs::write(&path, "data").unwrap();
        let error = bind_unix(&path).err().unwrap();
        assert!(error.to_string().contains("is no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn one_that_took_the_place_is_not_removed_with_its_forerunner() {
        let folder = Folder::new();
        let path = folder.at("a.sock");
        let first = bind_unix(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = bind_unix(&path).unwrap();
        drop(first);
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
    }

    #[test]
    fn many_that_start_at_once_leave_one() {
        let folder = Folder::new();
        let path = folder.at("a.sock");
        drop(UnixListener::bind(&path).unwrap());
        let start = |_| {
            let path = path.clone();
            std::thread::spawn(move || bind_unix(&path).ok())
        };
        let bound: Vec<_> =
            (0..8).map(start).collect::<Vec<_>>().into_iter().filter_map(|one| one.join().unwrap()).collect();
        assert_eq!(bound.len(), 1);
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_folder_of_somebody_else_is_not_trusted() {
        let folder = Folder::new();
        let own = fs::metadata(&folder.0).unwrap().uid();
        let mode = |mode| fs::set_permissions(&folder.0, Permissions::from_mode(mode)).unwrap();
        mode(0o755);
        assert!(trusted(&folder.0, own).is_ok());
        mode(0o777);
        assert!(trusted(&folder.0, own).is_err(), "others may write to it");
        let link = folder.at("link");
        std::os::unix::fs::symlink("/run", &link).unwrap();
        assert!(trusted(&link, own).is_err(), "it may lead anywhere");
    }

    #[test]
    fn folders_follow_the_surroundings() {
        let here = |unit: Option<&str>, user: Option<&str>, uid| Surroundings {
            unit: unit.map(PathBuf::from),
            user: user.map(PathBuf::from),
            temporary: PathBuf::from("/tmp"),
            uid,
        };
        for (unit, user, uid, folder) in [
            (Some("/run/edge"), Some("/run/user/0/fourfold"), 0, "/run/edge"),
            (None, Some("/run/user/0/fourfold"), 0, "/run/fourfold"),
            (None, Some("/run/user/7/fourfold"), 7, "/run/user/7/fourfold"),
            (None, None, 7, "/tmp/fourfold-7"),
        ] {
            let here = here(unit, user, uid);
            assert_eq!(here.own(), PathBuf::from(folder));
            assert!(here.all().contains(&here.own()), "what is put there is found");
        }
    }

    #[test]
    fn names_are_made_harmless() {
        assert_eq!(file_name("edge-1.prod"), "edge-1.prod");
        assert_eq!(file_name("../../etc/passwd"), "_.._etc_passwd");
        assert_eq!(file_name(""), "fourfold");
        assert!(file_name(&"x".repeat(500)).len() <= NAME_BYTES_MAX);
    }
}
