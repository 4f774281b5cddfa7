//! Money: whole minor units of one currency.

use std::fmt;
use std::str::FromStr;

/// An ISO 4217 currency code: three capital letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency([u8; 3]);

/// The text is not a currency code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a currency is three capital letters, e.g. KRW")]
pub struct InvalidCurrency;

impl FromStr for Currency {
    type Err = InvalidCurrency;

    fn from_str(text: &str) -> Result<Self, InvalidCurrency> {
        match <[u8; 3]>::try_from(text.as_bytes()) {
            Ok(code) if code.iter().all(u8::is_ascii_uppercase) => Ok(Self(code)),
            _ => Err(InvalidCurrency),
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&letter| write!(f, "{}", char::from(letter)))
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An amount in minor units (cents; won, which has none) of one currency. Never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Money {
    amount: i64,
    currency: Currency,
}

/// The amount is out of bounds, or two currencies were mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The amount is negative or above [`Money::AMOUNT_MAX`].
    #[error("an amount is 0 to {max} minor units", max = Money::AMOUNT_MAX)]
    OutOfBounds,
    /// The two amounts are of different currencies.
    #[error("amounts of different currencies cannot be added")]
    MixedCurrencies,
}

impl Money {
    /// The largest amount: a JSON number stays exact below 2^53.
    pub const AMOUNT_MAX: i64 = (1 << 53) - 1;

    /// `amount` minor units of `currency`.
    ///
    /// # Errors
    /// [`MoneyError::OutOfBounds`] if `amount` is negative or above [`Money::AMOUNT_MAX`].
    pub const fn new(amount: i64, currency: Currency) -> Result<Self, MoneyError> {
        if amount < 0 || amount > Self::AMOUNT_MAX {
            return Err(MoneyError::OutOfBounds);
        }
        Ok(Self { amount, currency })
    }

    /// Minor units.
    #[must_use]
    pub const fn amount(self) -> i64 {
        self.amount
    }

    /// The currency.
    #[must_use]
    pub const fn currency(self) -> Currency {
        self.currency
    }

    /// The sum of both.
    ///
    /// # Errors
    /// See [`MoneyError`].
    pub fn plus(self, other: Self) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::MixedCurrencies);
        }
        Self::new(self.amount.saturating_add(other.amount), self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_currency_is_three_capital_letters() {
        assert_eq!("KRW".parse::<Currency>().unwrap().to_string(), "KRW");
        for text in ["", "krw", "KR", "KRWW", "K1W", "€€€"] {
            assert_eq!(text.parse::<Currency>(), Err(InvalidCurrency), "{text}");
        }
    }

    #[test]
    fn sums_keep_their_bounds_and_their_currency() {
        let won = |amount| Money::new(amount, "KRW".parse().unwrap());
        let euro = Money::new(1, "EUR".parse().unwrap()).unwrap();

        assert_eq!(won(1).unwrap().plus(won(2).unwrap()), won(3));
        assert_eq!(won(1).unwrap().plus(euro), Err(MoneyError::MixedCurrencies));
        assert_eq!(won(Money::AMOUNT_MAX).unwrap().plus(won(1).unwrap()), Err(MoneyError::OutOfBounds));
        assert_eq!(won(-1), Err(MoneyError::OutOfBounds));
    }
}
