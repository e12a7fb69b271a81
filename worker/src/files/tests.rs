use super::*;

fn new<'a>(root: &'a Path, stem: &'a str, id: u64) -> NewFile<'a> {
    NewFile {
        root,
        below: "",
        stem,
        suffix: ".hl7",
        id: MessageId::new(id, 0),
        part: (0, 0),
        arrival: Arrival::Moved,
        order: None,
    }
}

fn write(root: &Path, stem: &str, id: u64, bytes: &[u8]) -> Result<PathBuf, FileFault> {
    write_as(Arrival::Moved, root, stem, id, bytes)
}

fn write_as(arrival: Arrival, root: &Path, stem: &str, id: u64, bytes: &[u8]) -> Result<PathBuf, FileFault> {
    let mut folders = Folders::default();
    let mut batch = FileBatch::new(&mut folders);
    let staged = batch.stage(&NewFile { arrival, ..new(root, stem, id) }, bytes)?;
    batch.commit().of(staged).map(Path::to_owned).map_err(Clone::clone)
}

fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn nothing_stands_under_the_final_name_before_the_commit() {
    let dir = tempfile::tempdir().unwrap();
    let mut folders = Folders::default();
    let mut batch = FileBatch::new(&mut folders);
    batch.stage(&new(dir.path(), "a", 1), b"one").unwrap();
    assert!(names(dir.path()).iter().all(|n| n.starts_with('.')));
    batch.commit();
    assert_eq!(names(dir.path()), ["a.hl7"]);
}

#[test]
fn the_same_bytes_again_are_the_same_file() {
    for arrival in [Arrival::Linked, Arrival::Moved] {
        let dir = tempfile::tempdir().unwrap();
        write_as(arrival, dir.path(), "a", 1, b"one").unwrap();
        write_as(arrival, dir.path(), "a", 1, b"one").unwrap();
        assert_eq!(names(dir.path()), ["a.hl7"]);
    }
}

#[test]
fn a_name_taken_by_other_bytes_gets_the_message_id() {
    for arrival in [Arrival::Linked, Arrival::Moved] {
        let dir = tempfile::tempdir().unwrap();
        write_as(arrival, dir.path(), "a", 1, b"one").unwrap();
        let path = write_as(arrival, dir.path(), "a", 2, b"two").unwrap();
        let id = MessageId::new(2, 0);
        assert_eq!(path, dir.path().join(format!("a_{id}.hl7")));
        assert_eq!(std::fs::read(dir.path().join("a.hl7")).unwrap(), b"one");
        assert_eq!(std::fs::read(path).unwrap(), b"two");
    }
}

#[test]
fn a_file_to_be_linked_has_no_name_before_the_commit() {
    let dir = tempfile::tempdir().unwrap();
    let mut folders = Folders::default();
    if !folders.open(dir.path(), "", &mut Vec::new()).unwrap().flushes_whole() {
        return eprintln!(
            "skipped: {:?} is on a file system that may know no files without names",
            dir.path()
        );
    }
    let mut batch = FileBatch::new(&mut folders);
    let staged =
        batch.stage(&NewFile { arrival: Arrival::Linked, ..new(dir.path(), "a", 1) }, b"one").unwrap();
    assert!(names(dir.path()).is_empty());
    let path = batch.commit().of(staged).unwrap().to_owned();
    assert_eq!(std::fs::read(path).unwrap(), b"one");
    assert_eq!(names(dir.path()), ["a.hl7"]);
}

#[test]
fn a_large_archived_file_leaves_memory_and_a_dropped_one_stays() {
    use rustix::io::{ReadWriteFlags, preadv2};
    let dir = tempfile::tempdir().unwrap();
    let mut folders = Folders::default();
    if !folders.open(dir.path(), "", &mut Vec::new()).unwrap().flushes_whole() {
        return eprintln!("skipped: {:?} is on a file system that may keep its files in memory", dir.path());
    }
    for (arrival, bytes, stays) in
        [(Arrival::Linked, 4 << 20, false), (Arrival::Linked, 4 << 10, true), (Arrival::Moved, 4 << 20, true)]
    {
        let path = write_as(arrival, dir.path(), &format!("{arrival:?}{bytes}"), 1, &vec![7; bytes]).unwrap();
        let mut first = [0; 512];
        let mut into = [std::io::IoSliceMut::new(&mut first)];
        let read = preadv2(File::open(&path).unwrap(), &mut into, 0, ReadWriteFlags::NOWAIT);
        assert_eq!(read.is_ok(), stays, "{arrival:?} {bytes}: {read:?}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes as u64);
    }
}

#[test]
fn a_link_planted_under_the_name_is_neither_followed_nor_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, b"one").unwrap();
    std::os::unix::fs::symlink(&victim, dir.path().join("a.hl7")).unwrap();
    write(dir.path(), "a", 3, b"two").unwrap();
    assert_eq!(std::fs::read(&victim).unwrap(), b"one");
    assert_eq!(names(dir.path()).len(), 3);
}

#[test]
fn what_a_dead_attempt_left_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let part = format!(".hl7server-{}-0-0.part", MessageId::new(1, 0));
    std::fs::write(dir.path().join(part), b"half of it and more").unwrap();
    write(dir.path(), "a", 1, b"one").unwrap();
    assert_eq!(names(dir.path()), ["a.hl7"]);
}

#[test]
fn a_file_where_the_folder_should_be_is_a_fault_of_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("drop");
    std::fs::write(&root, b"").unwrap();
    let fault = write(&root, "a", 1, b"one").unwrap_err();
    assert!(fault.folder_down);
    assert_eq!(fault.reason, format!("could not open folder {root:?}: not a directory"));
}

#[test]
fn many_files_are_put_in_place_together() {
    let dir = tempfile::tempdir().unwrap();
    let mut folders = Folders::default();
    let mut batch = FileBatch::new(&mut folders);
    let stems: Vec<String> = (0..20).map(|n| format!("f{n:02}")).collect();
    let staged: Vec<Staged> = stems
        .iter()
        .enumerate()
        .map(|(n, stem)| batch.stage(&new(dir.path(), stem, n as u64), stem.as_bytes()).unwrap())
        .collect();
    let placed = batch.commit();
    assert!(staged.iter().all(|s| placed.of(*s).is_ok()));
    assert_eq!(names(dir.path()).len(), 20);
}

#[test]
fn a_file_of_any_size_is_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, 2 * PIECE_BYTES + 7];
    for (n, size) in sizes.into_iter().enumerate() {
        let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        for arrival in [Arrival::Linked, Arrival::Moved] {
            let path = write_as(arrival, dir.path(), &format!("{n}-{arrival:?}"), 1, &bytes).unwrap();
            assert!(std::fs::read(path).unwrap() == bytes, "{size} bytes, {arrival:?}");
        }
    }
}
