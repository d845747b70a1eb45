//! How bodies are sealed.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::secret::SecretKeyRef;

/// Most keys that a pipeline can name: the one in use, and those that older rows may still need.
pub const MAX_ENCRYPTION_KEYS: u32 = 16;

/// Bodies are compressed and sealed with AES-256-GCM before they are stored. Rows that were stored before stay
/// readable, sealed or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.keys.exists(key, key.name == self.primaryKey)")
        .message("expected the name of one of the keys")
        .field_path(".primaryKey")
)]
pub struct Encryption {
    /// The keys that wrap the data keys, 1 to 16 with different names. One that any stored data key is wrapped by
    /// must stay here: `sluice keys status` tells, `sluice keys rotate` wraps all by `primaryKey`.
    #[schemars(
        length(min = 1, max = MAX_ENCRYPTION_KEYS),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub keys: Vec<EncryptionKey>,
    /// Name of the key that wraps new data keys.
    #[schemars(length(min = 1, max = 63))]
    pub primary_key: String,
}

/// A key that wraps data keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionKey {
    /// The name that is stored beside what it wraps: it must always mean the same key.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Where it lies: 32 random bytes in base64, as `openssl rand -base64 32` prints them.
    pub secret_key_ref: SecretKeyRef,
}
