//! Validation errors that name the field and the rule it breaks.

/// One validation error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field as the client wrote it, e.g. `seats[2]` or `line 7`.
    pub field: String,
    /// The rule that the field breaks, e.g. `must be 1 to 200 characters`. Never contains a secret.
    pub message: String,
}

impl Violation {
    /// A violation in `field`.
    #[must_use]
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Collects violations, so that a client gets all of them in one answer.
#[derive(Debug, Default)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Starts with no violation.
    #[must_use]
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Adds a violation of `field` unless `fine`.
    pub fn check(&mut self, fine: bool, field: &str, message: impl Into<String>) {
        if !fine {
            self.0.push(Violation::new(field, message));
        }
    }

    /// Checks that a text's length in characters lies within `bounds`.
    pub fn check_length(&mut self, field: &str, text: &str, bounds: std::ops::RangeInclusive<usize>) {
        let fine = bounds.contains(&text.chars().count());
        self.check(fine, field, format!("must be {} to {} characters", bounds.start(), bounds.end()));
    }

    /// Succeeds if there is no violation.
    ///
    /// # Errors
    /// All violations, in the order they were found.
    pub fn into_result(self) -> Result<(), Vec<Violation>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}
