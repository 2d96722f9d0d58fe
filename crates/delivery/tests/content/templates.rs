use keyward_core::{Code, Error, SecretBytes};
use keyward_delivery::template::{Inputs, parse_template, render};
use proptest::prelude::*;

fn inputs() -> Inputs {
    [
        ("db", Ok(r#"{"user": "sh:op", "password": "p:\\w'\"@/ü"}"#)),
        ("django-key", Ok("k\"e$y\\")),
        ("plain", Ok("hunter2")),
        ("empty", Ok("")),
        ("binary", Ok("")),
        ("gone", Err(Error::new(Code::ObjectNotFound, "the object does not exist"))),
    ]
    .into_iter()
    .map(|(name, value)| {
        let bytes: &[u8] =
            if name == "binary" { b"\xff" } else { value.as_ref().map_or(b"", |text| text.as_bytes()) };
        (name.to_owned(), value.map(|_| SecretBytes::copy_from(bytes)))
    })
    .collect()
}

fn rendered(template: &str) -> String {
    render(template, &inputs()).output.unwrap().expose_str().unwrap().to_owned()
}

fn complaint(template: &str) -> String {
    let error = render(template, &inputs()).output.err().unwrap_or_else(|| panic!("{template} renders"));
    assert_eq!(error.code(), Code::TemplateFailed);
    error.message().to_owned()
}

#[test]
fn a_pgpass_line_is_made_from_a_json_secret() {
    let template = "db.example:5432:*:{{ secret('db') | json_key('/user') | pgpass }}:{{ secret('db') | json_key('/password') | pgpass }}\n";
    assert_eq!(rendered(template), "db.example:5432:*:sh\\:op:p\\:\\\\w'\"@/ü\n");
}

#[test]
fn a_django_settings_snippet_is_made_from_several_secrets() {
    let template = r#"SECRET_KEY = {{ secret("django-key") | json }}
{% if has("gone") %}
SENTRY = {{ secret("gone") | json }}
{% endif %}
DATABASES = {"default": {
    "ENGINE": "django.db.backends.postgresql",
    "OPTIONS": {"passfile": "/var/run/keyward/pgpass"},
}}
CACHE_URL = "redis://:{{ secret("db") | json_key("/password") | urlencode }}@cache.example:6380/0"
"#;
    let expected = r#"SECRET_KEY = "k\"e$y\\"
DATABASES = {"default": {
    "ENGINE": "django.db.backends.postgresql",
    "OPTIONS": {"passfile": "/var/run/keyward/pgpass"},
}}
CACHE_URL = "redis://:p%3A%5Cw%27%22%40%2F%C3%BC@cache.example:6380/0"
"#;
    assert_eq!(rendered(template), expected);
}

#[test]
fn each_filter_quotes_for_its_reader() {
    for (filter, gives) in [
        ("json", r#""p:\\w'\"@/ü""#),
        ("pgpass", r#"p\:\\w'"@/ü"#),
        ("conninfo", r#"'p:\\w\'"@/ü'"#),
        ("userlist", r#""p:\w'""@/ü""#),
        ("ini", r#""p:\\w'\"@/ü""#),
        ("dotenv", r#""p:\\w'\"@/ü""#),
        ("urlencode", "p%3A%5Cw%27%22%40%2F%C3%BC"),
        ("b64encode", "cDpcdyciQC/DvA=="),
        ("b64encode | b64decode", r#"p:\w'"@/ü"#),
    ] {
        assert_eq!(
            rendered(&format!("{{{{ secret('db') | json_key('/password') | {filter} }}}}")),
            gives,
            "{filter}"
        );
    }
    assert_eq!(rendered("{{ secret('plain') | dotenv }}"), "'hunter2'");
    assert!(complaint("{{ 'a\\'b$c' | dotenv }}").contains("take differently"));
    assert!(complaint("{{ 'a\\nb' | pgpass }}").contains("line end"));
}

#[test]
fn texts_are_joined_and_compared_by_functions() {
    assert_eq!(rendered("{{ concat('user:', secret('plain'), 1) | b64encode }}"), "dXNlcjpodW50ZXIyMQ==");
    assert_eq!(rendered("{% if equal(secret('plain'), 'hunter2') %}yes{% else %}no{% endif %}"), "yes");
    assert_eq!(rendered("{% if secret('empty') %}yes{% else %}no{% endif %}"), "no");
    assert_eq!(
        rendered("{% for host in ['a', 'b'] %}{{ host }}:{{ secret('plain') }};{% endfor %}"),
        "a:hunter2;b:hunter2;"
    );
}

#[test]
fn plain_text_is_kept_byte_for_byte() {
    for text in ["", "a\n", "a\n\n", "{ } % # {x} ü\r\n"] {
        assert_eq!(rendered(text), text);
    }
}

#[test]
fn a_value_that_is_missing_names_its_entry_and_never_a_value() {
    assert_eq!(render("{{ secret('gone') }}", &inputs()).missing, ["gone"]);
    for (template, says) in [
        ("\n{{ secret('gone') }}", "needs gone, which has no value (KW_OBJECT_NOT_FOUND) (line 2)"),
        ("{{ secret('other') }}", "needs other, which is not declared"),
        ("{{ secret('binary') }}", "not UTF-8"),
        ("{{ secret('plain') | json_key('/a') }}", "picks nothing"),
        ("{{ secret('plain') | b64decode }}", "not base64"),
        ("{{ nothing }}", "uses a name that does not exist"),
        ("{{ secret('plain') | upper }}", "uses a filter that does not exist"),
        ("{{ system('id') }}", "calls a function that does not exist"),
        ("{{ secret() }}", "wrong arguments"),
        ("{{ secret('plain'", "does not end"),
        ("{% if secret('plain') %}", "cannot be read"),
    ] {
        let complaint = complaint(template);
        assert!(complaint.contains(says) && !complaint.contains("hunter2"), "{template}: {complaint}");
    }
}

#[test]
fn what_could_reach_out_or_grow_without_bound_is_refused() {
    for (template, says) in [
        ("{% include 'x' %}", "a tag other than"),
        ("{% import 'x' as y %}", "a tag other than"),
        ("{%- set x = 'a' %}", "a tag other than"),
        ("{% with x = 1 %}{% endwith %}", "a tag other than"),
        ("{% macro x() %}{% endmacro %}", "a tag other than"),
        ("{% raw %}{{ x }}{% endraw %}", "a tag other than"),
        ("{{ 'a' ~ 'b' }}", "join texts with concat"),
        ("{{ 'a' * 1000 }}", "join texts with concat"),
        ("{{ secret('plain') == 'x' }}", "compare texts with equal"),
        ("{{ {'a': 1} }}", "no expression here uses"),
        ("{# open", "does not end"),
    ] {
        let complaint = complaint(template);
        assert!(complaint.contains(says), "{template}: {complaint}");
        assert!(parse_template(template).is_err());
    }
    assert!(complaint(&"x".repeat((64 << 10) + 1)).contains("longer than 64 KiB"));
}

#[test]
fn steps_output_and_bytes_handled_are_bounded() {
    let list = format!("[{}]", vec!["1"; 200].join(","));
    let nested = format!(
        "{{% for a in {list} %}}{{% for b in {list} %}}{{% for c in {list} %}}{{% endfor %}}{{% endfor %}}{{% endfor %}}"
    );
    assert!(complaint(&nested).contains("too many steps"));
    let long = "x".repeat(30_000);
    let wide = format!("{{% for a in {list} %}}{long}{{% endfor %}}");
    assert!(complaint(&wide).contains("more than 1 MiB"));
    let grown = format!("{{{{ '{long}'{} }}}}", " | urlencode | b64encode | json".repeat(40));
    assert!(complaint(&grown).contains("more than 1 MiB"));
    let doubling = format!("{{{{ {}'{}'{} }}}}", "concat(".repeat(40), "x".repeat(64), ", 'y')".repeat(40));
    assert!(rendered(&doubling).len() < 200);
    let busy = format!(
        "{{% for a in {list} %}}{{% if equal(concat('{long}', a) | b64encode, 'x') %}}{{% endif %}}{{% endfor %}}"
    );
    assert_eq!(rendered(&busy), "");
    let busier = format!("{{% for b in [1,2,3] %}}{busy}{{% endfor %}}");
    assert!(complaint(&busier).contains("too many bytes"));
}

proptest! {
    #[test]
    fn quoting_for_pgpass_is_undone_by_libpqs_rule(value in "[^\n\r\\x00]{0,40}") {
        let inputs = [("v".to_owned(), Ok(SecretBytes::copy_from(value.as_bytes())))].into_iter().collect();
        let output = render("{{ secret('v') | pgpass }}", &inputs).output.unwrap();
        let mut read = String::new();
        let mut chars = output.expose_str().unwrap().chars();
        while let Some(c) = chars.next() {
            prop_assert_ne!(c, ':', "an unescaped colon ends the field");
            read.push(if c == '\\' { chars.next().unwrap() } else { c });
        }
        prop_assert_eq!(read, value);
    }

    #[test]
    fn quoting_for_json_is_undone_by_a_json_reader(value in any::<String>()) {
        let inputs = [("v".to_owned(), Ok(SecretBytes::copy_from(value.as_bytes())))].into_iter().collect();
        let output = render("{{ secret('v') | json }}", &inputs).output.unwrap();
        prop_assert_eq!(serde_json::from_slice::<String>(output.expose()).unwrap(), value);
    }

    #[test]
    fn any_template_renders_or_is_refused(template in "(\\{\\{|\\}\\}|\\{%|%\\}|if|for x in|end|secret|'plain'|\\(|\\)|\\||json|[-+ \\[\\]\"#.]|\\PC){0,30}") {
        let _ = parse_template(&template);
        if let Ok(output) = render(&template, &inputs()).output {
            prop_assert!(output.len() <= 1 << 20);
        }
    }
}
