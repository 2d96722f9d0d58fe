//! Which constants of the code are limits, told by their names.

use crate::sources::Sources;

/// Constants, and fields of the local API's settings, whose names say that they are limits: each with its file.
pub(crate) fn limiting(sources: &Sources) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (path, text) in sources.iter() {
        let ships = path.contains("/src/") && !path.starts_with("tests/") && !path.contains("tests");
        if !ships {
            continue;
        }
        // What follows is for tests.
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for line in text.lines().map(str::trim) {
            let name = line
                .split_once("const ")
                .filter(|(before, _)| before.is_empty() || before.starts_with("pub"));
            let name = name.and_then(|(_, rest)| rest.split_once(':')).map(|(name, _)| name);
            let field = path == "crates/local-api/src/settings.rs";
            let field = line.strip_prefix("pub ").filter(|_| field).and_then(|rest| rest.split_once(':'));
            let field = field.map(|(name, _)| name).filter(|name| name.starts_with("max_"));
            found.extend(
                name.filter(|name| limits(name)).or(field).map(|name| (path.to_owned(), name.to_owned())),
            );
        }
    }
    found
}

fn limits(name: &str) -> bool {
    let begins = ["MAX_", "MOST", "LARGEST", "LONGEST", "DEEPEST"];
    let is = [
        "LIMIT",
        "REMEMBERED",
        "WANTED",
        "VOLUMES",
        "EVENTS",
        "QUEUE",
        "SHARE",
        "FUEL",
        "LOOKUPS",
        "STREAMS",
    ];
    begins.iter().any(|word| name.starts_with(word)) || name.ends_with("_LIMIT") || is.contains(&name)
}
