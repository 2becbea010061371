//! What every object has.

use rkyv::{Archive, Deserialize, Serialize};

use crate::id::{Generation, Revision, Timestamp};

/// Name, labels and age of an object.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Name for people, unique among objects of its kind.
    pub name: String,
    /// What selectors find it by.
    pub labels: Labels,
    /// The state's revision when the object last changed.
    pub revision: Revision,
    /// How often what is wanted of it changed.
    pub generation: Generation,
    /// When it was made.
    pub created: Timestamp,
}

/// Keys with values. Equality does not depend on the order in which they were given when built by
/// [`Labels::from_iter`].
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Vec<(String, String)>);

impl Labels {
    /// No labels.
    #[must_use]
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// The value of `key`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(label, _)| label == key);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether every label of `selector` is here with the same value.
    #[must_use]
    pub fn matches(&self, selector: &Self) -> bool {
        selector
            .iter()
            .all(|(key, value)| self.value(key) == Some(value))
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        let labels = self.0.iter();
        labels.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Labels {
    /// Of two values for a key the last counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        let labels = labels.into_iter();
        let by_key: std::collections::BTreeMap<String, String> = labels
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        Self(by_key.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_finds_what_has_all_its_labels() {
        let labels: Labels = [("tier", "web"), ("zone", "a"), ("tier", "db")]
            .into_iter()
            .collect();
        assert_eq!(labels.len(), 2);
        assert_eq!(labels.value("tier"), Some("db"));
        assert!(labels.matches(&Labels::none()));
        assert!(labels.matches(&[("zone", "a")].into_iter().collect()));
        assert!(!labels.matches(&[("zone", "b")].into_iter().collect()));
        assert!(!labels.matches(&[("zone", "a"), ("disk", "ssd")].into_iter().collect()));
    }
}
