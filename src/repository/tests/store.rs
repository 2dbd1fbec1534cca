//! Creating, opening, refusing.

use std::path::Path;

use super::*;
use crate::io::Disk;

#[test]
fn a_repository_is_made_once_and_found_again() {
    let disk = SimDisk::new(1);
    assert!(matches!(
        Repository::open(Arc::new(disk.clone()), Access::Read),
        Err(RepositoryError::Missing { .. })
    ));
    let made = new_repository(&disk);
    assert!(matches!(
        Repository::init(Arc::new(disk.clone()), Identity([8; 16])),
        Err(RepositoryError::Exists { .. })
    ));
    disk.crash();
    let found = Repository::open(Arc::new(disk.clone()), Access::Read).unwrap();
    assert_eq!(found.identity(), made.identity());
    assert!(found.source_names().unwrap().is_empty());
    assert!(matches!(found.create_source("x", options()), Err(RepositoryError::ReadOnly)));
}

#[test]
fn a_foreign_directory_is_left_alone() {
    let disk = SimDisk::new(1);
    disk.create_new(Path::new("holiday.jpg")).unwrap();
    assert!(matches!(
        Repository::init(Arc::new(disk.clone()), Identity([7; 16])),
        Err(RepositoryError::NotEmpty { .. })
    ));
    assert!(matches!(
        Repository::open(Arc::new(disk.clone()), Access::Write),
        Err(RepositoryError::Foreign { .. })
    ));
    assert_eq!(disk.files().len(), 1);
}

#[test]
fn a_newer_format_is_refused_and_a_damaged_one_told_apart_from_it() {
    let disk = SimDisk::new(1);
    new_repository(&disk);
    let path = Path::new(super::super::store::REPOSITORY_FILE);
    disk.overwrite(path, 8, &[2]).unwrap();
    let opened = Repository::open(Arc::new(disk.clone()), Access::Read);
    assert!(matches!(opened, Err(RepositoryError::Damaged { .. })), "a flipped version is damage");
    disk.remove(path).unwrap();
    let newer = super::super::object::Kind { version: 2, ..super::super::store::REPOSITORY_KIND };
    newer.write(&disk, path, b"", b"whatever comes").unwrap();
    let opened = Repository::open(Arc::new(disk.clone()), Access::Read).map(|_| ());
    assert!(matches!(opened, Err(RepositoryError::Newer { found: 2, known: 1, .. })), "{opened:?}");
}

#[test]
fn sources_are_named_and_listed() {
    let repository = new_repository(&SimDisk::new(1));
    let source = repository.create_source("lab-2", options()).unwrap();
    assert_eq!(source.zone().iana_name(), Some("Asia/Shanghai"));
    repository.create_source("his", options()).unwrap();
    assert_eq!(repository.source_names().unwrap(), ["his", "lab-2"]);
    assert_eq!(repository.source("his").unwrap().identity(), options().identity);
    let Err(error) = repository.source("hsi") else { panic!("there is no such source") };
    assert_eq!(error.to_string(), "there is no source `hsi`; there are `his`, `lab-2`");
    assert!(matches!(repository.create_source("his", options()), Err(RepositoryError::SourceExists { .. })));
    for wrong in ["", ".", "..", "a/b", "-a", ".a", "ä", &"x".repeat(65)] {
        let refused = repository.create_source(wrong, options());
        assert!(matches!(refused, Err(RepositoryError::BadSourceName { .. })), "{wrong}");
        assert!(matches!(repository.source(wrong), Err(RepositoryError::NoSuchSource { .. })));
    }
}

#[test]
fn a_power_cut_while_creating_leaves_nothing_that_refuses_the_next_attempt() {
    for operations in 1..40 {
        let disk = SimDisk::new(operations);
        disk.kill_after(operations);
        let made = Repository::init(Arc::new(disk.clone()), Identity([7; 16]))
            .and_then(|repository| repository.create_source("his", options()));
        let was_killed = disk.is_killed();
        assert_eq!(made.is_err(), was_killed);
        disk.crash();
        let repository = match Repository::open(Arc::new(disk.clone()), Access::Write) {
            Ok(repository) => repository,
            Err(_) => new_repository(&disk),
        };
        if repository.source("his").is_err() {
            assert!(was_killed, "a source that was made is there");
            repository.create_source("his", options()).unwrap();
        }
        assert_eq!(repository.source_names().unwrap(), ["his"]);
        if !was_killed {
            return;
        }
    }
    panic!("creating takes more steps than were tried");
}

#[test]
fn a_second_writer_is_refused_and_told_who_sits_there() {
    let disk = SimDisk::new(1);
    let source = new_source(&disk);
    assert_eq!(source.writer().unwrap(), None);
    let seat = source.become_writer(&holder(), &cache()).unwrap();
    let refused = source.become_writer(&Holder { pid: 8, host: "there".to_owned() }, &cache());
    let Err(error) = refused else { panic!("the seat is taken") };
    assert_eq!(error.to_string(), format!("source `his` has a writer already: {HOLDER}"));
    assert!(source.seal_abandoned(&holder(), &cache()).is_err());
    assert_eq!(source.writer().unwrap().as_deref(), Some(HOLDER));
    let publisher = seat.publisher();
    drop(seat);
    assert!(source.writer().unwrap().is_some(), "whoever may still publish sits as well");
    drop(publisher);
    assert_eq!(source.writer().unwrap(), None);
    source.become_writer(&holder(), &cache()).unwrap();
}

#[test]
fn a_reader_needs_no_right_to_write() {
    let disk = SimDisk::new(1);
    let mut life = Life::begin(&new_source(&disk), &Arc::new(SimClock::new(START)));
    life.record(&declare_root());
    life.seal();
    drop(life);
    let repository = Repository::open(Arc::new(disk.clone()), Access::Read).unwrap();
    let source = repository.source("his").unwrap();
    assert!(matches!(source.become_writer(&holder(), &cache()), Err(RepositoryError::ReadOnly)));
    assert_eq!(source.history(&cache()).unwrap().end(), Position(1));
}

#[test]
fn a_catalogue_counts_only_for_the_stop_it_was_kept_at() {
    let disk = SimDisk::new(1);
    let source = new_source(&disk);
    let clock = Arc::new(SimClock::new(START));
    let mut life = Life::begin(&source, &clock);
    assert_eq!(life.seat.beginning, Beginning::First);
    life.record(&declare_root());
    let stopped = life.record(&stop());
    life.seal();
    life.seat.store_catalogue(stopped, b"inodes").unwrap();
    drop(life);

    let life = Life::begin(&source, &clock);
    assert_eq!(life.seat.beginning, Beginning::CleanStop { catalogue: Some(b"inodes".to_vec()) });
    assert!(life.log.written_position() >= stopped);
    drop(life);
    // That life recorded nothing, yet it may have changed files.
    assert_eq!(Life::begin(&source, &clock).seat.beginning, Beginning::Crash);
}
