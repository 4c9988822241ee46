use std::collections::BTreeSet;

use super::*;
use crate::contract::schema::documents;

/// Every `$ref` of a document.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(target)) = object.get("$ref") {
                found.insert(target.clone());
            }
            object.values().for_each(|item| references(item, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_exchange_and_queue_of_the_topology_is_a_channel() {
    let document = document();
    let topology = topology(&Namespace::default()).unwrap();
    let names = |what: &str| -> BTreeSet<String> {
        let channels = document["channels"].as_object().unwrap().values();
        channels.filter_map(|c| c["bindings"]["amqp"][what]["name"].as_str()).map(str::to_owned).collect()
    };
    let exchanges = topology.exchanges.iter().map(|exchange| exchange.name.clone()).collect();
    let queues = topology.queues.iter().map(|queue| parametrised(&queue.name).0).collect();
    assert_eq!(names("exchange"), exchanges);
    assert_eq!(names("queue"), queues);
}

#[test]
fn no_stand_in_is_left_in_the_document() {
    let text = document().to_string();
    for (stand_in, _, _) in PARAMETERS {
        assert!(!text.contains(stand_in), "{stand_in}");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let files = documents().unwrap();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 20);
    for target in found {
        match target.strip_prefix('#') {
            Some(pointer) => assert!(document.pointer(pointer).is_some(), "{target}"),
            None => assert!(files.contains_key(target.trim_start_matches("./")), "{target}"),
        }
    }
}

#[test]
fn every_parameter_of_an_address_is_described() {
    for (id, channel) in document()["channels"].as_object().unwrap() {
        // The channel of answers has no address: each publisher names its own.
        let address = channel["address"].as_str().unwrap_or_default();
        let used: BTreeSet<_> =
            address.split('{').skip(1).filter_map(|rest| rest.split('}').next()).collect();
        let described: BTreeSet<_> = channel["parameters"]
            .as_object()
            .into_iter()
            .flat_map(|p| p.keys())
            .map(String::as_str)
            .collect();
        assert_eq!(used, described, "{id}");
    }
}

#[test]
fn every_message_that_a_queue_gets_is_one_that_its_exchange_carries() {
    let document = document();
    let names = |id: &str| -> BTreeSet<String> {
        let messages = &document["channels"][id]["messages"];
        messages.as_object().unwrap_or_else(|| panic!("no channel {id}")).keys().cloned().collect()
    };
    for (id, channel) in document["channels"].as_object().unwrap() {
        for binding in channel["x-bound-to"].as_array().into_iter().flatten() {
            let exchange = local(&Namespace::default(), binding["exchange"].as_str().unwrap()).to_owned();
            assert!(names(id).is_subset(&names(&format!("{exchange}-exchange"))), "{id} from {exchange}");
        }
    }
}
