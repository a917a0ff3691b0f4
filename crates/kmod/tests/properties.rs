//! Whatever the index files say, the answers keep their promises.

use bugler_kmod::{Modules, Texts, module_name};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::{Component, Path};

/// A kernel of up to 12 modules that need one another at random, in circles too.
fn dep_text() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::collection::vec(0_usize..14, 0..5), 0..12).prop_map(|all| {
        let mut text = String::new();
        for (module, needs) in all.iter().enumerate() {
            let needs: Vec<String> = needs.iter().map(|n| format!("k/m-{n}.ko.xz")).collect();
            text += &format!("k/m-{module}.ko.xz: {}\n", needs.join(" "));
        }
        text
    })
}

/// What each module of a `modules.dep` needs, read a second way.
fn needs(text: &str) -> Vec<(String, Vec<String>)> {
    let read = |line: &str| -> Option<(String, Vec<String>)> {
        let (path, needs) = line.split_once(": ")?;
        Some((
            module_name(path)?,
            needs.split(' ').filter_map(module_name).collect(),
        ))
    };
    text.lines().filter_map(read).collect()
}

/// Whether `from` can be reached from itself over what modules need.
fn in_circle(all: &[(String, Vec<String>)], from: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut todo = vec![from.to_owned()];
    while let Some(name) = todo.pop() {
        for need in all
            .iter()
            .filter(|(module, _)| *module == name)
            .flat_map(|(_, needs)| needs)
        {
            if need == from {
                return true;
            }
            if seen.insert(need.clone()) {
                todo.push(need.clone());
            }
        }
    }
    false
}

proptest! {
    #[test]
    fn each_once_and_after_what_it_needs(
        dep in dep_text(), wanted in proptest::collection::vec(0_usize..14, 0..6),
    ) {
        let modules = Modules::from_text(Path::new(""), &Texts { dep: &dep, ..Texts::default() });
        let wanted: Vec<String> = wanted.iter().map(|n| format!("m_{n}")).collect();
        let order = modules.closure(&wanted);
        let distinct: BTreeSet<&String> = order.iter().collect();
        prop_assert_eq!(distinct.len(), order.len());

        let all = needs(&dep);
        let known = |name: &String| all.iter().any(|(module, _)| module == name);
        let place = |name: &String| order.iter().position(|other| other == name);
        for name in wanted.iter().filter(|name| known(name)) {
            prop_assert!(place(name).is_some(), "{} was asked for", name);
        }
        for (module, needs) in &all {
            let Some(at) = place(module) else { continue };
            for need in needs.iter().filter(|need| known(need)) {
                prop_assert!(place(need).is_some(), "{} needs {}", module, need);
                if !in_circle(&all, module) {
                    prop_assert!(place(need).is_some_and(|other| other < at));
                }
            }
        }
    }

    #[test]
    fn any_text_is_survived(
        dep in any::<String>(), alias in any::<String>(), softdep in any::<String>(),
        builtin in any::<String>(), asked in any::<String>(),
    ) {
        let texts =
            Texts { dep: &dep, alias: &alias, softdep: &softdep, builtin: &builtin };
        let modules = Modules::from_text(Path::new("/m"), &texts);
        for path in modules.order(modules.resolve_alias(&asked)) {
            prop_assert!(path.starts_with("/m"));
        }
    }

    #[test]
    fn lines_of_the_right_shape_are_survived(
        dep in "([a-c/.]{0,5}\\.ko(\\.xz)?: ?([a-c]\\.ko ?){0,3}\n){0,6}",
        alias in "(alias [a-c*?\\[\\]-]{0,6} [a-c]\n){0,6}",
        softdep in "(softdep [a-c] (pre:|post:)( [a-c]){0,3}\n){0,4}",
        asked in "[a-c]{0,4}",
    ) {
        let texts = Texts { dep: &dep, alias: &alias, softdep: &softdep, builtin: "" };
        let modules = Modules::from_text(Path::new("/m"), &texts);
        let found = modules.resolve_alias(&asked);
        let order = modules.order(&found);
        prop_assert!(order.len() >= found.len());
        for path in order {
            prop_assert!(path.starts_with("/m"));
            prop_assert!(!path.components().any(|part| part == Component::ParentDir));
        }
    }
}
