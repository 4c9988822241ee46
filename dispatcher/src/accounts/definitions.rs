//! Accounts as a RabbitMQ definitions document. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use switchyard_common::config::Secret;
use switchyard_common::contract::access::Access;

/// Bytes of salt in RabbitMQ's password hash.
const SALT_BYTES: usize = 4;

/// An account with its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Who, and what it may do.
    pub access: Access,
    /// Its password.
    pub password: Secret,
}

/// The document that `rabbitmqctl import_definitions` and the management API take: what is in it is made or changed, and nothing else is
/// touched. It holds hashes, no passwords; the same accounts make the same text, so that it can be kept and compared.
#[must_use]
pub fn document(vhost: &str, accounts: &[Account]) -> Value {
    let users: Vec<Value> = accounts.iter().map(user).collect();
    let permissions: Vec<Value> = accounts.iter().map(|account| permission(vhost, &account.access)).collect();
    let topics: Vec<Value> =
        accounts.iter().flat_map(|account| topic_permissions(vhost, &account.access)).collect();
    json!({
        "vhosts": [{ "name": vhost }],
        "users": users,
        "permissions": permissions,
        "topic_permissions": topics,
    })
}

fn user(account: &Account) -> Value {
    let mut limits = Map::new();
    for (name, limit) in
        [("max-connections", account.access.connections_max), ("max-channels", account.access.channels_max)]
    {
        if let Some(limit) = limit {
            limits.insert(name.to_owned(), limit.into());
        }
    }
    json!({
        "name": account.access.user,
        "password_hash": password_hash(&account.access.user, &account.password),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": [],
        "limits": limits,
    })
}

fn permission(vhost: &str, access: &Access) -> Value {
    json!({
        "user": access.user, "vhost": vhost,
        "configure": access.configure, "write": access.write, "read": access.read,
    })
}

fn topic_permissions(vhost: &str, access: &Access) -> Vec<Value> {
    let one = |topic: &switchyard_common::contract::access::TopicAccess| {
        json!({
            "user": access.user, "vhost": vhost,
            "exchange": topic.exchange, "write": topic.write, "read": topic.read,
        })
    };
    access.topics.iter().map(one).collect()
}

/// RabbitMQ's form: base64 of salt and SHA-256 of salt and password. The salt is of the name and the password, so that the hash is the same
/// each time; passwords are random and long, so that no salt has to protect them from a list.
fn password_hash(user: &str, password: &Secret) -> String {
    let seed = Sha256::new().chain_update(user).chain_update([0]).chain_update(password.expose()).finalize();
    let salt = &seed[..SALT_BYTES];
    let hash = Sha256::new().chain_update(salt).chain_update(password.expose()).finalize();
    STANDARD.encode([salt, &hash[..]].concat())
}

#[cfg(test)]
mod tests {
    use switchyard_common::contract::access::Role;
    use switchyard_common::contract::ids::PoolId;
    use switchyard_common::contract::topology::Namespace;

    use super::*;

    fn account() -> Account {
        let role = Role::Pool(PoolId::new("blue").unwrap());
        Account { access: Namespace::default().access(&role), password: Secret::new("hunter2") }
    }

    #[test]
    fn the_document_holds_hashes_and_no_password_and_is_the_same_each_time() {
        let made = document("v", &[account()]);
        assert!(!made.to_string().contains("hunter2"));
        assert_eq!(made, document("v", &[account()]));
        assert_eq!(made["users"][0]["name"], "switchyard-pool-blue");
        assert_eq!(made["users"][0]["tags"], json!([]));
        assert_eq!(made["permissions"][0]["vhost"], "v");
        assert_eq!(made["topic_permissions"][1]["write"], "(?!)");
        let hash = STANDARD.decode(made["users"][0]["password_hash"].as_str().unwrap()).unwrap();
        assert_eq!(hash.len(), SALT_BYTES + 32);
    }

    #[test]
    fn another_password_or_another_name_has_another_hash() {
        let one = password_hash("a", &Secret::new("p"));
        assert_ne!(one, password_hash("b", &Secret::new("p")));
        assert_ne!(one, password_hash("a", &Secret::new("q")));
    }
}
