//! Profiles and rules: what devices boot.

use super::fault::Fault;
use super::memory::Effect;
use super::rows::{Json, execute, first, id, list};
use super::writer::Tx;
use bugler_model::{
    BootPolicy, Boots, Device, DeviceId, EventKind, NewEvent, Profile, ProfileName, Quirks, Rule,
    Timestamp,
};
use rusqlite::Connection;
use std::sync::Arc;

/// Most profiles, and most rules.
const MOST: usize = 1000;

/// Profiles by name, rules in their order.
pub(super) fn read(sql: &Connection) -> Result<BootPolicy, Fault> {
    let profiles = list(sql, "SELECT body FROM profiles ORDER BY name", [], |row| {
        Ok(row.get::<_, Json<Profile>>("body")?.0)
    })?;
    let rules = list(sql, "SELECT body FROM rules ORDER BY position", [], |row| {
        Ok(row.get::<_, Json<Rule>>("body")?.0)
    })?;
    Ok(BootPolicy { profiles, rules })
}

fn refresh(tx: &mut Tx<'_>) -> Result<(), Fault> {
    let policy = read(tx.sql)?;
    tx.effect(Effect::Policy(Arc::new(policy)));
    Ok(())
}

fn exists(sql: &Connection, name: &ProfileName) -> Result<bool, Fault> {
    if name.is_built_in() {
        return Ok(true);
    }
    let text = "SELECT name FROM profiles WHERE name = ?1";
    let found = first(sql, text, [name.as_str()], |row| row.get::<_, String>(0))?;
    Ok(found.is_some())
}

/// The profile that a text names; none for an empty one.
pub(super) fn named(tx: &Tx<'_>, text: &str) -> Result<Option<ProfileName>, Fault> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let name: ProfileName = text
        .parse()
        .map_err(|error: bugler_model::ProfileNameError| Fault::Conflict(error.to_string()))?;
    if !exists(tx.sql, &name)? {
        return Err(Fault::Conflict(format!(
            "there is no profile {name}: make it first (`bugler profile set {name} ...`), or see \
             `bugler profile list`"
        )));
    }
    Ok(Some(name))
}

/// See [`crate::Store::set_profile`].
pub(super) fn set_profile(tx: &mut Tx<'_>, profile: &Profile, now: Timestamp) -> Result<(), Fault> {
    let name = &profile.name;
    if name.is_built_in() {
        return Err(Fault::Conflict(format!(
            "the profile {name} is always there as it is: choose another name"
        )));
    }
    if let Boots::Menu { entries, .. } = &profile.boots {
        for entry in entries {
            if !exists(tx.sql, &entry.profile)? && entry.profile != *name {
                return Err(Fault::Conflict(format!(
                    "the menu's entry {:?} boots the profile {}, which does not exist: make it first",
                    entry.label, entry.profile
                )));
            }
            if entry.profile == *name || is_menu(tx.sql, &entry.profile)? {
                return Err(Fault::Conflict(format!(
                    "the menu's entry {:?} is a menu itself: an entry boots something",
                    entry.label
                )));
            }
        }
        if let Some(menu) = menu_with(tx.sql, name)? {
            return Err(Fault::Conflict(format!(
                "{name} is an entry of the menu {menu}, and cannot become a menu itself"
            )));
        }
    }
    let known = exists(tx.sql, name)?;
    let count: i64 = first(tx.sql, "SELECT count(*) FROM profiles", [], |row| {
        row.get(0)
    })?
    .unwrap_or_default();
    if !known && usize::try_from(count).is_ok_and(|count| count >= MOST) {
        return Err(Fault::Conflict(format!(
            "there are {MOST} profiles already: remove some first"
        )));
    }
    execute(
        tx.sql,
        "INSERT INTO profiles (name, body) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET body = excluded.body",
        (name.as_str(), Json(profile)),
    )?;
    let what = if known { "was changed" } else { "is new" };
    let text = format!("the profile {name} {what}: {}", profile.boots.word());
    tx.keep(NewEvent::new(EventKind::Server, text), now)?;
    refresh(tx)
}

fn is_menu(sql: &Connection, name: &ProfileName) -> Result<bool, Fault> {
    let profile = read(sql)?.profile(name);
    Ok(profile.is_some_and(|profile| matches!(profile.boots, Boots::Menu { .. })))
}

/// A menu that has this profile as an entry.
fn menu_with(sql: &Connection, name: &ProfileName) -> Result<Option<ProfileName>, Fault> {
    let menus = read(sql)?.profiles.into_iter();
    Ok(menus
        .filter(|profile| match &profile.boots {
            Boots::Menu { entries, .. } => entries.iter().any(|entry| entry.profile == *name),
            _ => false,
        })
        .map(|profile| profile.name)
        .next())
}

/// See [`crate::Store::remove_profile`].
pub(super) fn remove_profile(
    tx: &mut Tx<'_>,
    name: &ProfileName,
    now: Timestamp,
) -> Result<(), Fault> {
    let refused = |why: String| Err(Fault::Conflict(why));
    if name.is_built_in() {
        return refused(format!("the profile {name} is always there"));
    }
    let text = "SELECT id FROM devices WHERE own_profile = ?1 OR next_profile = ?1 LIMIT 1";
    let user = first(tx.sql, text, [name.as_str()], |row| {
        id(row, "id").map(DeviceId)
    })?;
    if let Some(device) = user {
        return refused(format!(
            "{} boots the profile {name}: give it another one first (`bugler device set {device} \
             --profile ...`)",
            tx.label(device)?
        ));
    }
    let text = "SELECT position FROM rules WHERE profile = ?1 LIMIT 1";
    if let Some(position) = first(tx.sql, text, [name.as_str()], |row| row.get::<_, i64>(0))? {
        return refused(format!(
            "rule {position} gives the profile {name}: change it first"
        ));
    }
    if let Some(menu) = menu_with(tx.sql, name)? {
        return refused(format!(
            "the menu {menu} has an entry for {name}: change it first"
        ));
    }
    let gone = execute(
        tx.sql,
        "DELETE FROM profiles WHERE name = ?1",
        [name.as_str()],
    )?;
    if gone == 0 {
        return Err(Fault::NotFound(format!("profile {name}")));
    }
    let text = format!("the profile {name} was removed");
    tx.keep(NewEvent::new(EventKind::Server, text), now)?;
    refresh(tx)
}

/// See [`crate::Store::set_rules`].
pub(super) fn set_rules(tx: &mut Tx<'_>, rules: &[Rule], now: Timestamp) -> Result<(), Fault> {
    if rules.len() > MOST {
        return Err(Fault::Conflict(format!(
            "{} rules are too many: {MOST} are the most",
            rules.len()
        )));
    }
    execute(tx.sql, "DELETE FROM rules", [])?;
    for (position, rule) in (1_i64..).zip(rules) {
        if !exists(tx.sql, &rule.profile)? {
            return Err(Fault::Conflict(format!(
                "rule {position} gives the profile {}, which does not exist: make it first",
                rule.profile
            )));
        }
        execute(
            tx.sql,
            "INSERT INTO rules (position, profile, body) VALUES (?1, ?2, ?3)",
            (position, rule.profile.as_str(), Json(rule)),
        )?;
    }
    let text = match rules.len() {
        0 => "there are no rules any more: devices without a profile boot the agent".to_owned(),
        n => format!("there are {n} rules now for what devices boot"),
    };
    tx.keep(NewEvent::new(EventKind::Server, text), now)?;
    refresh(tx)
}

/// See [`crate::Store::replace_rules`].
pub(super) fn replace_rules(
    tx: &mut Tx<'_>,
    known: &[Rule],
    rules: &[Rule],
    now: Timestamp,
) -> Result<(), Fault> {
    if read(tx.sql)?.rules != known {
        return Err(Fault::RulesChanged);
    }
    set_rules(tx, rules, now)
}

/// See [`crate::Store::learn_quirks`].
pub(super) fn learn_quirks(
    tx: &mut Tx<'_>,
    id: DeviceId,
    quirks: Quirks,
    why: &str,
    now: Timestamp,
) -> Result<Arc<Device>, Fault> {
    let mut record = tx.record(id)?;
    if record.device.quirks != quirks {
        record.device.quirks = quirks;
        tx.save(&record)?;
        let text = format!("{}: {why}", record.device.label());
        tx.keep(NewEvent::new(EventKind::Boot, text).device(id), now)?;
    }
    tx.refresh(id)
}

/// See [`crate::Store::end_next`].
pub(super) fn end_next(tx: &mut Tx<'_>, id: DeviceId, now: Timestamp) -> Result<(), Fault> {
    let mut record = tx.record(id)?;
    let next = record.device.next.take();
    if next.is_none() && record.device.tries == 0 {
        return Ok(());
    }
    record.device.tries = 0;
    tx.save(&record)?;
    if let Some(profile) = next {
        let text = format!("{} has booted {profile} this once", record.device.label());
        tx.keep(NewEvent::new(EventKind::Device, text).device(id), now)?;
    }
    tx.refresh(id).map(drop)
}
