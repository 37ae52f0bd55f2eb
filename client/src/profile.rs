//! A profile: a folder with a person's identity key and contacts. Only its owner can read it.
//!
//! One file, `profile.json`, is replaced atomically. One process uses a profile at a time: two would displace each
//! other's inboxes, and would not see each other's new contacts. A client locks the profile as long as it runs. A
//! change reads the file again under a second lock, so that a process without the profile lock overwrites no contact.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{endpoint::NodeEndpoint, keys::SecretKey, redacted::Redacted};
use chappe_discovery::private_file::{self, FolderError};
use rand::{TryRng as _, rngs::SysRng};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    contact::{Contact, ContactId, MAX_CONTACTS, Pairing, PairingId, PairingSecret, Role},
    contact_name::{TakenNames, clean_name},
    referral,
    sealing_key::SealingKey,
};

const FILE: &str = "profile.json";
const LOCK: &str = "profile.lock";
/// The lock file of the process that uses the profile. It contains the process's id.
const HOLD: &str = "in-use.lock";
/// How often and at which interval locking is retried: a process that is ending releases its lock soon.
const HOLD_TRIES: u32 = 20;
const HOLD_PAUSE: Duration = Duration::from_millis(50);
/// The node cache.
const NODES: &str = "nodes.json";
/// The most digits of a process id.
const MAX_PROCESS_ID: u64 = 20;
/// The version of [`FILE`]. Version 1 had no inbox root keys, without which a contact cannot be reached.
const VERSION: u32 = 2;
/// The largest accepted file: [`MAX_CONTACTS`] contacts take a third of it.
const MAX_FILE: u64 = 1024 * 1024;

/// A profile cannot be used or changed. The file is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A file or folder cannot be read or written.
    #[error("cannot use the profile's file {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Others can access the folder, or could replace it: it or a folder above belongs to another user, or others may write
    /// to it.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Another process uses the profile, or another client in this process.
    #[error("another process uses the profile {path}{}: stop it first, or use another profile", holder(*.process))]
    InUse {
        /// The profile's folder.
        path: PathBuf,
        /// The process id, if known.
        process: Option<u32>,
    },
    /// The file is not a profile of this version. It is never replaced.
    #[error("{path} is not a profile of this version")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The profile has [`MAX_CONTACTS`] contacts already.
    #[error("a profile holds at most {MAX_CONTACTS} contacts")]
    Full,
    /// There is no contact with this name or key.
    #[error("there is no such contact")]
    NoContact,
    /// The system's random source failed.
    #[error("the system's random source failed")]
    Random,
}

fn holder(process: Option<u32>) -> String {
    process.map_or_else(String::new, |process| format!(" (process {process})"))
}

#[derive(Serialize, Deserialize)]
struct FileForm {
    version: u32,
    name: String,
    identity: Zeroizing<String>,
    contacts: Vec<ContactForm>,
}

#[derive(Serialize, Deserialize)]
struct ContactForm {
    name: String,
    identity: String,
    pairings: Vec<PairingForm>,
    in_use: usize,
    is_proved: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    blocked: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct PairingForm {
    role: Role,
    secret: Zeroizing<String>,
    own_root: Zeroizing<String>,
    peer_root: String,
}

/// A person's name, identity key and contacts.
#[derive(Clone, Debug)]
pub struct Profile {
    folder: PathBuf,
    name: Redacted<String>,
    identity: SealingKey,
    contacts: Vec<Contact>,
    /// The profile lock. Clones share it.
    held: Option<Arc<fs::File>>,
}

impl Profile {
    /// Opens the profile in `folder`. If there is none, creates the folder (mode 0700) and an identity key, with
    /// `name` as the name that contacts see first. Blocks on the disk.
    ///
    /// # Errors
    /// Others can access or replace the folder, the file is not a profile, or the disk fails.
    pub fn open_or_create(folder: impl Into<PathBuf>, name: &str) -> Result<Self, ProfileError> {
        let folder = folder.into();
        private_file::prepare_folder(&folder)?;
        let _lock = lock(&folder)?;
        if let Some(profile) = read(&folder)? {
            return Ok(profile);
        }
        let mut secret = Zeroizing::new([0; 32]);
        SysRng.try_fill_bytes(&mut *secret).map_err(|_| ProfileError::Random)?;
        let identity = SealingKey::from_bytes(&secret);
        let profile =
            Self { folder, name: Redacted::new(clean_name(name)), identity, contacts: Vec::new(), held: None };
        profile.write()?;
        Ok(profile)
    }

    /// Locks the profile until this value and its clones are dropped. A client does this when it starts. Blocks for up
    /// to a second while another process is ending.
    ///
    /// # Errors
    /// Another process uses the profile, or the lock file cannot be written.
    pub fn hold(&mut self) -> Result<(), ProfileError> {
        if self.held.is_some() {
            return Ok(());
        }
        let path = self.folder.join(HOLD);
        let mut file = private_file::open_lock(&path).map_err(at(&path))?;
        for _ in 0..HOLD_TRIES {
            match file.try_lock() {
                Ok(()) => {
                    file.set_len(0).map_err(at(&path))?;
                    write!(file, "{}", std::process::id()).map_err(at(&path))?;
                    self.held = Some(Arc::new(file));
                    return Ok(());
                }
                Err(fs::TryLockError::WouldBlock) => thread::sleep(HOLD_PAUSE),
                Err(fs::TryLockError::Error(source)) => return Err(at(&path)(source)),
            }
        }
        let mut text = String::new();
        let read = file.take(MAX_PROCESS_ID).read_to_string(&mut text);
        let process = read.ok().and_then(|_| text.trim().parse().ok());
        Err(ProfileError::InUse { path: self.folder.clone(), process })
    }

    /// The name that contacts see first.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The identity key.
    pub const fn identity(&self) -> &SealingKey {
        &self.identity
    }

    /// The contacts, in the order in which they were paired.
    pub fn contacts(&self) -> &[Contact] {
        &self.contacts
    }

    /// The contact with this id.
    pub fn contact(&self, id: ContactId) -> Option<&Contact> {
        self.contacts.iter().find(|contact| contact.id() == id)
    }

    /// The contact with this name in any Unicode composition. Names are unique in a profile.
    pub fn contact_named(&self, name: &str) -> Option<&Contact> {
        let name = clean_name(name);
        self.contacts.iter().find(|contact| contact.name() == name)
    }

    /// The path of the node cache.
    pub fn nodes_file(&self) -> PathBuf {
        self.folder.join(NODES)
    }

    /// Adds a contact, and returns it as stored. A name that looks like another contact's gets a number. A known
    /// contact keeps its position and its name, because the pairing has proved that it is the same. It also keeps its
    /// old pairing until the new one is confirmed. Pass `stored` if the contact has stored the new pairing. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// The profile is full or cannot be written. The contact is not stored then.
    pub fn add_contact(&mut self, contact: Contact, stored: bool) -> Result<Contact, ProfileError> {
        self.change(|contacts| {
            if let Some(known) = contacts.iter_mut().find(|known| known.id() == contact.id()) {
                known.paired_again(contact.pairing().clone(), stored);
                return Ok(known.clone());
            }
            if contacts.len() >= MAX_CONTACTS {
                return Err(ProfileError::Full);
            }
            let name = TakenNames::of(contacts.iter().map(Contact::name)).take(contact.name());
            let contact = contact.renamed(&name).stored(stored);
            contacts.push(contact.clone());
            Ok(contact)
        })
    }

    /// Removes a contact. Blocks on the disk.
    ///
    /// # Errors
    /// There is no such contact, or the profile cannot be written.
    pub fn remove_contact(&mut self, id: ContactId) -> Result<(), ProfileError> {
        self.change(|contacts| {
            let before = contacts.len();
            contacts.retain(|contact| contact.id() != id);
            if contacts.len() == before { Err(ProfileError::NoContact) } else { Ok(()) }
        })
    }

    /// Records that the contact has stored this pairing, and drops the older ones. Blocks on the disk.
    ///
    /// # Errors
    /// There is no such contact, or the profile cannot be written.
    pub fn confirm(&mut self, id: ContactId, pairing: PairingId) -> Result<(), ProfileError> {
        self.edit_contact(id, |contact| {
            let mut confirmed = contact;
            confirmed.confirm(pairing);
            confirmed
        })
    }

    /// Blocks or unblocks a contact. Blocks on the disk.
    ///
    /// # Errors
    /// There is no such contact, or the profile cannot be written.
    pub fn block(&mut self, id: ContactId, blocked: bool) -> Result<(), ProfileError> {
        self.edit_contact(id, |contact| contact.blocked(blocked))
    }

    /// Replaces the nodes that a contact has shared. Blocks on the disk.
    ///
    /// # Errors
    /// There is no such contact, or the profile cannot be written.
    pub fn set_nodes(&mut self, id: ContactId, nodes: Vec<NodeEndpoint>) -> Result<(), ProfileError> {
        self.edit_contact(id, |contact| contact.with_nodes(nodes))
    }

    fn edit_contact(&mut self, id: ContactId, edit: impl FnOnce(Contact) -> Contact) -> Result<(), ProfileError> {
        self.change(|contacts| {
            let known = contacts.iter_mut().find(|known| known.id() == id).ok_or(ProfileError::NoContact)?;
            *known = edit(known.clone());
            Ok(())
        })
    }

    /// The nodes that contacts have shared: the first of each contact, then the second of each, and so on.
    pub fn referrals(&self) -> impl Iterator<Item = NodeEndpoint> + '_ {
        (0..referral::MAX_NODES)
            .flat_map(|n| self.contacts.iter().filter_map(move |contact| contact.nodes().get(n).cloned()))
    }

    /// Changes the contacts in the file's current state, where another process may have added one.
    fn change<T>(
        &mut self,
        edit: impl FnOnce(&mut Vec<Contact>) -> Result<T, ProfileError>,
    ) -> Result<T, ProfileError> {
        let _lock = lock(&self.folder)?;
        let mut changed = read(&self.folder)?.unwrap_or_else(|| self.clone());
        let result = edit(&mut changed.contacts)?;
        changed.write()?;
        changed.held = self.held.take();
        *self = changed;
        Ok(result)
    }

    fn write(&self) -> Result<(), ProfileError> {
        let encode = |bytes: &[u8; 32]| URL_SAFE_NO_PAD.encode(bytes);
        let contacts = self.contacts.iter().map(|contact| ContactForm {
            name: contact.name().to_owned(),
            identity: encode(contact.identity()),
            pairings: contact.pairings().iter().map(pairing_form).collect(),
            in_use: contact.in_use().0,
            is_proved: contact.in_use().1,
            blocked: contact.is_blocked(),
            nodes: contact.nodes().iter().map(referral::to_text).collect(),
        });
        let form = FileForm {
            version: VERSION,
            name: self.name().to_owned(),
            identity: Zeroizing::new(encode(&self.identity.to_bytes())),
            contacts: contacts.collect(),
        };
        let text = Zeroizing::new(serde_json::to_vec_pretty(&form).expect("strings and numbers are JSON"));
        let path = self.folder.join(FILE);
        private_file::write_own(&path, &text).map_err(at(&path))
    }
}

fn pairing_form(pairing: &Pairing) -> PairingForm {
    let encode = |bytes: &[u8; 32]| URL_SAFE_NO_PAD.encode(bytes);
    PairingForm {
        role: pairing.role(),
        secret: Zeroizing::new(encode(pairing.secret().as_bytes())),
        own_root: Zeroizing::new(encode(&pairing.own_root().to_bytes())),
        peer_root: pairing.peer_root().to_base64url(),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ProfileError {
    let path = path.to_owned();
    move |source| ProfileError::Io { path, source }
}

/// Waits for the lock of the file. A process holds it for one write.
fn lock(folder: &Path) -> Result<fs::File, ProfileError> {
    let path = folder.join(LOCK);
    let file = private_file::open_lock(&path).map_err(at(&path))?;
    file.lock().map_err(at(&path))?;
    Ok(file)
}

fn read(folder: &Path) -> Result<Option<Profile>, ProfileError> {
    let path = folder.join(FILE);
    let text = match private_file::read_own(&path, MAX_FILE) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Err(ProfileError::Damaged { path }),
        Err(error) => return Err(at(&path)(error)),
    };
    parse(&text)
        .map(|(name, identity, contacts)| {
            Some(Profile { folder: folder.to_owned(), name: Redacted::new(name), identity, contacts, held: None })
        })
        .ok_or(ProfileError::Damaged { path })
}

fn parse(text: &[u8]) -> Option<(String, SealingKey, Vec<Contact>)> {
    let form: FileForm = serde_json::from_slice(text).ok()?;
    if form.version != VERSION || form.contacts.len() > MAX_CONTACTS {
        return None;
    }
    let decode = |text: &str| -> Option<[u8; 32]> { URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok() };
    let mut contacts = Vec::with_capacity(form.contacts.len());
    let mut taken = TakenNames::default();
    for contact in &form.contacts {
        let pairings = contact.pairings.iter().map(|pairing| {
            let secret = PairingSecret::from_bytes(decode(&pairing.secret)?);
            let own_root = SecretKey::from_bytes(&Zeroizing::new(decode(&pairing.own_root)?));
            Pairing::new(pairing.role, secret, own_root, pairing.peer_root.parse().ok()?)
        });
        let (pairings, identity) = (pairings.collect::<Option<Vec<_>>>()?, decode(&contact.identity)?);
        // An earlier version allowed names that look the same.
        let name = taken.take(&contact.name);
        let restored = Contact::restore(&name, identity, pairings, (contact.in_use, contact.is_proved))?;
        // Stored nodes were checked when they were received, by the setting of that time.
        let nodes = referral::read(&contact.nodes, true);
        contacts.push(restored.blocked(contact.blocked).with_nodes(nodes));
    }
    let identity = SealingKey::from_bytes(&Zeroizing::new(decode(&form.identity)?));
    Some((form.name, identity, contacts))
}

/// Checks for any input, run by the tests and the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// A profile's file.
    pub const PROFILE: (&str, fn(&[u8]) -> bool) =
        ("profile", |text| parse(text).is_some_and(|(_, _, contacts)| contacts.len() <= MAX_CONTACTS));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn pairing(n: u8) -> Pairing {
        let (own, other) = (SecretKey::from_bytes(&[n; 32]), SecretKey::from_bytes(&[255; 32]).public());
        Pairing::new(Role::B, PairingSecret::from_bytes([n; 32]), own, other).expect("a usable key")
    }

    fn contact(n: u8, name: &str) -> Contact {
        Contact::new(name, [n; 32], pairing(n))
    }

    #[test]
    fn a_reopened_profile_has_the_same_key_and_contacts() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("profile");
        let mut profile = Profile::open_or_create(&path, "Ada").expect("a new profile");
        profile.add_contact(contact(1, "Bob"), true).expect("a contact");
        let referred =
            referral::read(&[format!("wss://8.8.8.8:1#{}", SecretKey::from_bytes(&[1; 32]).node_id())], false);
        profile.set_nodes(ContactId::new([1; 32]), referred.clone()).expect("stored");
        let again = Profile::open_or_create(&path, "ignored").expect("the profile");
        assert_eq!(again.name(), "Ada");
        assert_eq!(again.referrals().collect::<Vec<_>>(), referred);
        assert_eq!(again.identity().public(), profile.identity().public());
        let bob = again.contact_named("Bob").expect("the contact");
        assert_eq!((bob.id(), bob.pairing().role()), (ContactId::new([1; 32]), Role::B));
        assert_eq!((bob.pairing().id(), bob.is_blocked()), (pairing(1).id(), false));
        assert_eq!(bob.pairing().secret().as_bytes(), &[1; 32]);
    }

    #[test]
    fn only_the_owner_can_read_a_profile() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("deep").join("profile");
        Profile::open_or_create(&path, "Ada").expect("a new profile");
        let mode = |path: &Path| fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join(FILE)), mode(&path.join(LOCK))), (0o700, 0o600, 0o600));
    }

    #[test]
    fn two_processes_do_not_lose_each_other_s_contacts() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut one = Profile::open_or_create(folder.path().join("profile"), "Ada").expect("a new profile");
        let mut two = Profile::open_or_create(folder.path().join("profile"), "Ada").expect("the profile");
        one.add_contact(contact(1, "Bob"), true).expect("a contact");
        two.add_contact(contact(2, "Bob"), true).expect("another");
        let names: Vec<_> = two.contacts().iter().map(Contact::name).collect();
        assert_eq!(names, ["Bob", "Bob 2"]);
        one.remove_contact(ContactId::new([2; 32])).expect("known from the disk");
        assert_eq!(one.contacts().len(), 1);
        assert!(matches!(one.remove_contact(ContactId::new([2; 32])), Err(ProfileError::NoContact)));
    }

    #[test]
    fn a_locked_profile_is_unavailable_to_others_until_it_is_released() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut one = Profile::open_or_create(folder.path().join("profile"), "Ada").expect("a new profile");
        one.hold().and_then(|()| one.hold()).expect("held once");
        one.add_contact(contact(1, "Bob"), true).expect("a contact");
        let clone = one.clone();
        drop(one);
        let mut two = Profile::open_or_create(folder.path().join("profile"), "Ada").expect("the profile");
        let refused = two.hold().expect_err("a clone holds it");
        let ProfileError::InUse { process, .. } = refused else { panic!("{refused}") };
        assert_eq!(process, Some(std::process::id()));
        drop(clone);
        two.hold().expect("nobody holds it");
    }

    #[test]
    fn a_folder_that_others_may_use_and_links_in_it_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (profile, target) = (folder.path().join("profile"), folder.path().join("target"));
        fs::create_dir(&profile).expect("a folder");
        for mode in [0o750, 0o705, 0o720] {
            fs::set_permissions(&profile, fs::Permissions::from_mode(mode)).expect("the owner");
            let refused = Profile::open_or_create(&profile, "Ada").expect_err("others may use it");
            assert!(refused.to_string().contains("chmod 700"), "{refused}");
        }
        fs::set_permissions(&profile, fs::Permissions::from_mode(0o700)).expect("the owner");
        fs::write(&target, b"mine").expect("a file");
        for file in [LOCK, HOLD, FILE] {
            let _ = fs::remove_file(profile.join(file));
            std::os::unix::fs::symlink(&target, profile.join(file)).expect("a link");
            let opened = Profile::open_or_create(&profile, "Ada").and_then(|mut profile| profile.hold());
            assert!(matches!(opened, Err(ProfileError::Io { .. })), "{file}: {opened:?}");
            assert_eq!(fs::read(&target).expect("a file"), b"mine");
            fs::remove_file(profile.join(file)).expect("a link");
        }
        assert!(Profile::open_or_create(&profile, "Ada").is_ok());
    }

    #[test]
    fn a_profile_below_a_folder_in_which_others_may_write_is_refused_and_below_a_sticky_one_is_used() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let above = folder.path().join("above");
        let profile = above.join("between").join("profile");
        let open = || Profile::open_or_create(&profile, "Ada");
        open().expect("a new profile");
        let set_mode = |mode| fs::set_permissions(&above, fs::Permissions::from_mode(mode)).expect("the owner");
        set_mode(0o777);
        let refused = open().expect_err("anybody could replace it").to_string();
        let told = format!("everybody may write in {} and replace files", above.display());
        assert!(refused.contains(&told), "{refused}");
        // As in /tmp, nobody can rename the files of others.
        for mode in [0o1777, 0o755, 0o711] {
            set_mode(mode);
            open().unwrap_or_else(|error| panic!("{mode:o}: {error}"));
        }
        // Only root may give a folder away.
        if std::os::unix::fs::chown(&above, Some(4242), None).is_ok() {
            let refused = open().expect_err("its owner could replace it").to_string();
            assert!(refused.contains(&format!("{} belongs to another user (4242)", above.display())), "{refused}");
        }
    }

    #[test]
    fn a_repeated_pairing_replaces_the_contact_and_contacts_are_bounded() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut profile = Profile::open_or_create(folder.path().join("profile"), "Ada").expect("a new profile");
        for n in 0..=u8::try_from(MAX_CONTACTS).expect("fewer than 256") {
            let added = profile.add_contact(contact(n, "Bob"), true);
            assert_eq!(added.is_ok(), usize::from(n) < MAX_CONTACTS, "{n}");
        }
        // Also in a profile that is full.
        let again = Contact::new("Robert", [3; 32], pairing(201));
        let stored = profile.add_contact(again, true).expect("the same person");
        assert_eq!((stored.name(), stored.pairing().id()), ("Bob 4", pairing(201).id()));
        assert_eq!(profile.contacts().len(), MAX_CONTACTS);
    }

    #[test]
    fn the_former_pairing_is_kept_until_the_new_one_is_confirmed_also_across_a_restart() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let open = || Profile::open_or_create(folder.path().join("profile"), "Ada").expect("the profile");
        let ids = |profile: &Profile| profile.contacts()[0].pairings().iter().map(Pairing::id).collect::<Vec<_>>();
        open().add_contact(contact(1, "Bob"), true).expect("a contact");
        let again = Contact::new("Bob", [1; 32], pairing(2));
        open().add_contact(again, false).expect("the same person");
        assert_eq!(ids(&open()), [pairing(1).id(), pairing(2).id()]);
        assert_eq!(open().contacts()[0].pairing().id(), pairing(1).id());
        open().confirm(ContactId::new([1; 32]), pairing(2).id()).expect("a contact");
        assert_eq!(ids(&open()), [pairing(2).id()]);
        open().block(ContactId::new([1; 32]), true).expect("a contact");
        assert!(open().contacts()[0].is_blocked());
    }

    #[test]
    fn a_damaged_file_is_reported_and_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("profile");
        Profile::open_or_create(&path, "Ada").expect("a new profile");
        fs::write(path.join(FILE), "{}").expect("a file");
        let opened = Profile::open_or_create(&path, "Ada");
        assert!(matches!(opened, Err(ProfileError::Damaged { .. })));
        assert_eq!(fs::read(path.join(FILE)).expect("the file"), b"{}");
    }

    #[test]
    fn mutated_profiles_are_read_or_refused() {
        let key = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM";
        let root = SecretKey::from_bytes(&[3; 32]).public();
        let contact = format!(
            r#"{{"name":"Zo\u00eb","identity":"{key}","pairings":[{{"role":"b","secret":"{key}","own_root":"{key}","peer_root":"{root}"}}],"in_use":0,"is_proved":true,"blocked":true,"nodes":["wss://8.8.8.8:1#{key}","x"]}}"#
        );
        let valid = [
            format!(r#"{{"version":2,"name":"Ada","identity":"{key}","contacts":[{contact}]}}"#),
            format!(r#"{{"version":2,"name":"","identity":"{key}","contacts":[]}}"#),
        ];
        chappe_mutations::run(fuzzed::PROFILE, &valid);
    }
}
