use super::*;

#[test]
fn a_table_is_summed_up_beyond_its_first_rows() {
    let rows = |count: usize| shortened((0..count).map(|index| Row::new(format!("r{index}"), 2)).collect());
    assert_eq!(rows(MOST_ROWS).len(), MOST_ROWS);
    let long = rows(MOST_ROWS + 5);
    let last = long.last().expect("rows");
    assert_eq!((long.len(), last.name.as_str(), last.count), (MOST_ROWS, "6 others", 12));
}

#[test]
fn a_duration_is_shown_in_words() {
    let told = [0, 59, 60, 7199, 7200].map(|secs| ago(Duration::from_secs(secs)));
    assert_eq!(told, ["just now", "just now", "1 min ago", "119 min ago", "2 h ago"]);
}

#[test]
fn the_policy_names_the_style_that_is_sent() {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    assert!(POLICY.to_str().is_ok_and(|policy| policy.contains(&style)));
    assert!(!STYLE.contains("url(") && !STYLE.contains("</"), "nothing to load, nothing that ends the element");
}
