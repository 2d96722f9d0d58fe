//! What a question may be, at each limit and one beyond.

use keyward_test_support::limits::limit;
use serde_json::{Value, json};

use super::rig::*;

fn values(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(values).sum(),
        Value::Object(map) => map.values().map(values).sum(),
        _ => 0,
    }
}

#[tokio::test]
async fn questions_pods_and_names_are_bounded_as_the_table_says() {
    let (api, directory) = cluster();
    let injector = Injector::start(&directory);
    let mut sender = client(&injector, &api).await;
    let path = sender.path.clone();

    let row = limit("injector: values of a pod");
    let pod_of = |count: usize| {
        let mut pod = good();
        pod["spec"]["padding"] = json!([]);
        pod["spec"]["padding"] = json!(vec![1; count - values(&pod)]);
        assert_eq!(values(&pod), count);
        pod
    };
    assert_eq!(ask(&mut sender, &pod_of(row.number())).await["allowed"], true);
    let answer = ask(&mut sender, &pod_of(row.number() + 1)).await;
    assert_eq!(answer["allowed"], false);
    row.refuses(Err::<(), _>(answer["status"]["message"].clone()));

    let row = limit("injector: question");
    let sized = |bytes: usize| {
        let mut body = question(&good(), "shop");
        body.resize(bytes, b' ');
        body
    };
    assert_eq!(post(&mut sender, &path, sized(row.number())).await.0, 200);
    // The body is not waited for.
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", row.number() + 1);
    let beyond = raw(&sender, head.as_bytes()).await;
    assert!(beyond.starts_with("HTTP/1.1 413"), "{beyond}");

    let row = limit("injector: name in a question");
    for (length, status) in [(row.number(), 200), (row.number() + 1, 400)] {
        let body = question(&good(), &"n".repeat(length));
        assert_eq!(post(&mut sender, &path, body).await.0, status, "{length}");
    }
}

#[tokio::test]
async fn heads_are_bounded_as_the_table_says() {
    let (api, directory) = cluster();
    let injector = Injector::start(&directory);
    let sender = client(&injector, &api).await;
    // At a path that nobody knows: that it is answered shows that the head was read.
    let fields = async |count: usize| {
        let fields: String = (0..count).map(|n| format!("x-{n}: y\r\n")).collect();
        raw(&sender, format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes()).await
    };
    let row = limit("injector: header fields");
    let (at, beyond) = (fields(row.number()).await, fields(row.number() + 1).await);
    assert!(at.starts_with("HTTP/1.1 404"), "{at}");
    assert!(beyond.starts_with("HTTP/1.1 431"), "{beyond}");
    let head = async |bytes: usize| {
        let text = "GET / HTTP/1.1\r\nx: \r\n\r\n";
        let text = text.replace("x: ", &format!("x: {}", "y".repeat(bytes - text.len())));
        assert_eq!(text.len(), bytes);
        raw(&sender, text.as_bytes()).await
    };
    let row = limit("injector: head of a question");
    let (at, beyond) = (head(row.number()).await, head(row.number() + 1).await);
    assert!(at.starts_with("HTTP/1.1 404"), "{at}");
    assert!(beyond.starts_with("HTTP/1.1 431"), "{beyond}");
}
