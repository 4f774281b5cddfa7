//! Accounts, and the rules for their fields.

use std::fmt;

use usher_kernel::{AccountId, Timestamp, Violation, Violations};

/// The role of an account, which decides what it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Joins lines and buys seats.
    Buyer,
    /// Manages concerts, seats and admission policies, and may do what a buyer may.
    Operator,
}

impl Role {
    /// The role's name, in the API, in tokens and in stores.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Buyer => "buyer",
            Self::Operator => "operator",
        }
    }

    /// The role with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Buyer, Self::Operator].into_iter().find(|role| role.as_str() == name)
    }
}

/// A mail address, trimmed and in lower case, so that one address belongs to one account.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Email(Box<str>);

impl Email {
    /// The longest address, in bytes (RFC 5321, 4.5.3.1.3).
    pub const LEN_MAX: usize = 254;

    /// Parses an address. Checks its form only: whether it exists can only be found by sending a mail.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_lowercase();
        let (local, domain) = text.rsplit_once('@')?;
        let no_blanks = !text.chars().any(|c| c.is_whitespace() || c.is_control());
        let domain_is_fine = !domain.is_empty() && !domain.starts_with('.') && !domain.ends_with('.');
        (text.len() <= Self::LEN_MAX && !local.is_empty() && domain_is_fine && no_blanks).then(|| Self(text.into()))
    }

    /// The address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// Mail addresses are personal data, and stay out of logs.
impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(..)")
    }
}

/// A password as its owner typed it. Never printed.
#[derive(Clone)]
pub struct Password(Box<str>);

impl Password {
    /// The shortest and the longest password, in characters. The upper bound keeps hashing cheap.
    pub const LEN: std::ops::RangeInclusive<usize> = 8..=128;

    /// Wraps a password as it was typed.
    #[must_use]
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The password, for hashing.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// An account, without its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The account's id.
    pub id: AccountId,
    /// Its mail address, unique.
    pub email: Email,
    /// The name of its owner.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// When it was created.
    pub created_at: Timestamp,
}

/// A validated request for a new account.
#[derive(Debug)]
pub struct SignUp {
    pub(crate) email: Email,
    pub(crate) password: Password,
    pub(crate) name: String,
}

impl SignUp {
    /// Validates a request for a new account.
    ///
    /// # Errors
    /// A violation for each field that breaks a rule.
    pub fn new(email: &str, password: Password, name: &str) -> Result<Self, Vec<Violation>> {
        let mut violations = Violations::none();
        let parsed = Email::parse(email);
        violations.check(parsed.is_some(), "email", "must be a mail address of at most 254 characters");
        violations.check_length("password", password.expose(), Password::LEN);
        let name = name.trim();
        violations.check_length("name", name, 1..=100);
        violations.into_result()?;
        // Cannot fail: a missing address is a violation, and returned above.
        let email = parsed.ok_or_else(Vec::new)?;
        Ok(Self { email, password, name: name.to_owned() })
    }
}

/// The credentials of a log-in. Not validated, since every wrong input gets the same answer.
#[derive(Debug)]
pub struct Credentials {
    /// The mail address as typed.
    pub email: String,
    /// The password as typed.
    pub password: Password,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_mail_address_are_equal() {
        assert_eq!(Email::parse(" Ann@Example.ORG "), Email::parse("ann@example.org"));
        for text in
            ["", "ann", "@example.org", "ann@", "a nn@example.org", "ann@.org", &format!("{}@b", "a".repeat(254))]
        {
            assert_eq!(Email::parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_bad_field_of_a_sign_up_is_named() {
        let violations = SignUp::new("ann", Password::new("short"), " ").unwrap_err();

        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["email", "password", "name"]);
    }

    #[test]
    fn secrets_are_not_printed() {
        let sign_up = SignUp::new("ann@example.org", Password::new("correct horse"), "Ann").unwrap();

        let printed = format!("{sign_up:?}");
        assert!(!printed.contains("horse") && !printed.contains("example"), "{printed}");
    }
}
