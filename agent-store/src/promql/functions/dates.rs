//! Functions of a time in seconds since 1970, UTC.

/// The function of this name.
pub(super) fn function(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "minute" => |t| seconds(t).rem_euclid(3600).div_euclid(60) as f64,
        "hour" => |t| seconds(t).rem_euclid(86_400).div_euclid(3600) as f64,
        // 1970-01-01 was a Thursday.
        "day_of_week" => |t| (days(t) + 4).rem_euclid(7) as f64,
        "day_of_month" => |t| civil(days(t)).2 as f64,
        "day_of_year" => |t| {
            let day = days(t);
            (day - first_day(civil(day).0, 1) + 1) as f64
        },
        "days_in_month" => |t| {
            let (year, month, _) = civil(days(t));
            let next = if month == 12 {
                first_day(year + 1, 1)
            } else {
                first_day(year, month + 1)
            };
            (next - first_day(year, month)) as f64
        },
        "month" => |t| civil(days(t)).1 as f64,
        "year" => |t| civil(days(t)).0 as f64,
        _ => return None,
    })
}

fn seconds(t: f64) -> i64 {
    // Beyond a few thousand years nobody knows the calendar; and the arithmetic below must not overflow.
    (t as i64).clamp(-1 << 50, 1 << 50)
}

fn days(t: f64) -> i64 {
    seconds(t).div_euclid(86_400)
}

/// Year, month and day of a number of days since 1970, in the Gregorian calendar: eras of 400 years that begin in March
/// (Howard Hinnant's `civil_from_days`).
pub fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The days since 1970 of the first of a month.
fn first_day(year: i64, month: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let year_of_era = year.rem_euclid(400);
    let months = (month + 9) % 12;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * months + 2) / 5;
    year.div_euclid(400) * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_those_of_the_calendar() {
        // `date -u -d @T`: 2024-02-29 23:59:59 (Thursday), 1969-12-31 (Wednesday), 2000-12-31.
        let at = |name: &str, t: f64| super::function(name).unwrap()(t);
        let leap = 1_709_251_199.0;
        let names = [
            "year",
            "month",
            "day_of_month",
            "day_of_week",
            "day_of_year",
            "days_in_month",
            "hour",
            "minute",
        ];
        assert_eq!(
            names.map(|name| at(name, leap)),
            [2024.0, 2.0, 29.0, 4.0, 60.0, 29.0, 23.0, 59.0]
        );
        assert_eq!(
            names.map(|name| at(name, -1.0)),
            [1969.0, 12.0, 31.0, 3.0, 365.0, 31.0, 23.0, 59.0]
        );
        assert_eq!(at("day_of_year", 978_220_800.0), 366.0);
        assert!(at("year", f64::INFINITY).is_finite());
    }
}
