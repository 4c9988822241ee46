//! The contract: what the Rust types write and read, and what the schemas in `docs/contract` say, are the same.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

mod reading;
mod samples;
mod sizes;

use std::collections::BTreeMap;

use jsonschema::Validator;
use serde_json::{Value, json};
use switchyard_common::contract::schema::{ANSWER_FILE, NOTIFICATION_FILE, schemas};

use reading::{reads, round_trip};
use samples::{Sample, all};

fn validators() -> BTreeMap<String, Validator> {
    let compile = |(file, schema): (String, schemars::Schema)| {
        let validator = jsonschema::draft7::new(schema.as_value());
        let validator = validator.unwrap_or_else(|error| panic!("{file} is no valid schema: {error}"));
        (file, validator)
    };
    schemas().into_iter().map(compile).collect()
}

/// Messages that Switchyard writes for others: their readers must take new fields in their stride, so they are open.
fn is_open(sample: &Sample) -> bool {
    [ANSWER_FILE, NOTIFICATION_FILE].contains(&sample.file.as_str())
}

/// Fields whose content belongs to upstream, to a handler, or to an operator's configuration.
const FREE: [&str; 4] = ["payload", "parameters", "result", "labels"];

/// JSON pointers of every object of a message that has a fixed set of fields.
fn closed_objects(value: &Value) -> Vec<String> {
    fn walk(value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                found.push(at.to_owned());
                for (key, item) in object.iter().filter(|(key, _)| !FREE.contains(&key.as_str())) {
                    walk(item, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
                }
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(n, item)| walk(item, &format!("{at}/{n}"), found));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut found = Vec::new();
    walk(value, "", &mut found);
    found
}

#[test]
fn every_message_that_is_written_fits_its_schema() {
    let validators = validators();
    for sample in all() {
        let errors: Vec<_> =
            validators[&sample.file].iter_errors(&sample.value).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{} {}: {errors:?}", sample.file, sample.name);
    }
}

#[test]
fn every_schema_has_a_sample() {
    let samples = all();
    for file in schemas().keys() {
        assert!(samples.iter().any(|sample| sample.file == *file), "{file}");
    }
}

#[test]
fn every_message_comes_back_as_it_was_written() {
    for sample in all() {
        assert_eq!(round_trip(&sample.file, &sample.value).unwrap(), sample.value, "{}", sample.name);
    }
}

#[test]
fn an_unknown_field_is_refused_by_the_types_and_by_the_schemas() {
    let validators = validators();
    for sample in all().iter().filter(|sample| !is_open(sample)) {
        for at in closed_objects(&sample.value) {
            // Extension attributes of a CloudEvent are allowed, and serde cannot close a variant without fields.
            let is_envelope = at.is_empty() && sample.value.get("specversion").is_some();
            let is_drain = at == "/order" && sample.name == "Drain";
            let mut changed = sample.value.clone();
            changed.pointer_mut(&at).unwrap()["surprise"] = json!(1);
            let by_schema = validators[&sample.file].is_valid(&changed);
            assert_eq!(by_schema, is_envelope, "{} at {at}", sample.name);
            assert_eq!(reads(&sample.file, &changed), is_envelope || is_drain, "{} at {at}", sample.name);
        }
    }
}

#[test]
fn a_missing_or_null_field_is_judged_alike_by_the_types_and_by_the_schemas() {
    let validators = validators();
    for sample in all().iter().filter(|sample| !is_open(sample)) {
        for at in closed_objects(&sample.value) {
            let keys: Vec<_> =
                sample.value.pointer(&at).unwrap().as_object().unwrap().keys().cloned().collect();
            for key in keys {
                let (mut without, mut null) = (sample.value.clone(), sample.value.clone());
                without.pointer_mut(&at).unwrap().as_object_mut().unwrap().remove(&key);
                null.pointer_mut(&at).unwrap()[&key] = Value::Null;
                for (how, changed) in [("missing", without), ("null", null)] {
                    let by_schema = validators[&sample.file].is_valid(&changed);
                    let by_types = reads(&sample.file, &changed);
                    assert_eq!(by_schema, by_types, "{} {at}/{key} {how}", sample.name);
                }
            }
        }
    }
}

#[test]
fn a_value_of_another_type_is_refused_by_both() {
    let validators = validators();
    for sample in all().iter().filter(|sample| !is_open(sample)) {
        for at in closed_objects(&sample.value) {
            for (key, old) in sample.value.pointer(&at).unwrap().as_object().unwrap() {
                // Attributes that are carried without being read may be anything for the reader.
                let carried =
                    at.is_empty() && ["subject", "datacontenttype", "traceparent"].contains(&key.as_str());
                if FREE.contains(&key.as_str()) || carried {
                    continue;
                }
                let mut changed = sample.value.clone();
                let other = if old.is_number() { json!("7") } else { json!(7.5) };
                changed.pointer_mut(&at).unwrap()[key] = other;
                assert!(!validators[&sample.file].is_valid(&changed), "{} {at}/{key} by schema", sample.name);
                assert!(!reads(&sample.file, &changed), "{} {at}/{key} by type", sample.name);
            }
        }
    }
}

#[test]
fn incident_14_an_assignment_without_one_of_its_fields_is_an_error() {
    let assignment = all().into_iter().find(|sample| sample.name == "assignment").unwrap();
    for key in assignment.value.as_object().unwrap().keys() {
        let mut changed = assignment.value.clone();
        changed.as_object_mut().unwrap().remove(key);
        assert!(!reads(&assignment.file, &changed), "{key}");
    }
}
