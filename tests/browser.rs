//! The dashboard in a real browser: current without a reload, readable on a phone, by keyboard and by ear. Skipped where
//! there is no Chromium. `HL7SERVER_PICTURES=DIR` keeps pictures to look at.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::json;
use std::path::PathBuf;
use support::browser::Browser;
use support::dashboard::Dashboard;
use support::messages::adt;
use support::mllp::Peer;
use support::{PATIENCE, Server, Site, within};

/// The smallest contrast of any text with what is behind it, and that text.
const LEAST_CONTRAST: &str = r"(() => {
  const parse = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let least = [99, ''];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join('');
    if (!own || element.closest('script, .skip') || !element.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least[0]) least = [ratio, own];
  }
  return least;
})()";

/// A server with a channel whose messages fail, one that cannot listen, and one that is off.
fn troubled() -> (Site, Server, u16, std::net::TcpListener) {
    let mut site = Site::new();
    let (port, taken, unused) = (site.port(), site.port(), site.port());
    let holder = std::net::TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let mut failing = site.store_channel("adt", port);
    failing["mapping"] = json!({"ward": "ZZZ.1.2"});
    let mut off = site.store_channel("off", unused);
    off["enabled"] = json!(false);
    let alerts = json!([{"name": "any failure", "when": "failed", "command": ["/bin/true"]}]);
    site.configure(json!({"channels": [failing, site.store_channel("taken", taken), off], "alerts": alerts}));
    let server = site.launch(site.command(&["run"]));
    within(PATIENCE, "the channel takes messages", || {
        server.try_status().filter(|_| Peer::try_connect(port).is_ok()).map(drop)
    });
    (site, server, port, holder)
}

#[test]
fn it_keeps_itself_current_and_leaves_focus_and_open_lists_alone() {
    let (mut site, mut server, port, _holder) = troubled();
    let dashboard = Dashboard::start(&mut site, &["--no-alerts"]);
    let url = format!("http://localhost:{}/", dashboard.port);
    let Some(mut browser) = Browser::open(&url) else { return };
    browser.evaluate("window.mark = 'the same page'; document.querySelector('#c-taken a').focus(); 0");
    browser.wait_for("document.querySelector('#summary').innerText.includes('taken: unbound')");

    Peer::connect(port).exchange(&adt("A", "P1")).accepts(b"A");
    browser.wait_for("document.querySelectorAll('details li').length === 1");
    browser.evaluate("document.querySelector('details').open = true; 0");
    Peer::connect(port).exchange(&adt("B", "P1")).accepts(b"B");
    browser.wait_for("document.querySelectorAll('details li').length === 2");
    assert_eq!(browser.evaluate("document.querySelector('details').open"), json!(true));
    assert_eq!(browser.evaluate("document.activeElement.innerText"), json!("taken"));

    site.run(&["failed", "discard", "--all"]).good();
    browser.wait_for("document.querySelectorAll('details').length === 0");
    server.stop();
    browser.wait_for("document.querySelector('#summary').innerText.includes('no server answers')");
    drop(dashboard);
    browser.wait_for("document.querySelector('#link').innerText.includes('The dashboard does not answer')");
    assert_eq!(browser.evaluate("window.mark"), json!("the same page"));
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn it_is_read_on_a_phone_by_keyboard_and_by_ear() {
    let (mut site, _server, port, _holder) = troubled();
    let dashboard = Dashboard::start(&mut site, &[]);
    Peer::connect(port).exchange(&adt("A", "P1")).accepts(b"A");
    let page = dashboard.shows("1 alert is raised.");
    let message = page.split("href=\"/failed/adt/").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let url = format!("http://localhost:{}/", dashboard.port);
    let Some(mut browser) = Browser::open(&url) else { return };
    browser.wait_for("document.querySelector('polyline') !== null");
    let pictures = std::env::var_os("HL7SERVER_PICTURES").map(PathBuf::from);
    for (name, path) in
        [("page", ""), ("channel", "channel/adt"), ("message", &format!("failed/adt/{message}"))]
    {
        browser.call("Page.navigate", json!({"url": format!("{url}{path}")}));
        browser.wait_for(&format!(
            "location.pathname === '/{path}' && document.querySelector('main h2') !== null"
        ));
        for width in [1280, 390] {
            for scheme in ["light", "dark"] {
                browser.look(width, scheme);
                let overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
                assert_eq!(
                    browser.evaluate(overflow),
                    json!(0),
                    "{name} at {width} px is wider than the screen"
                );
                let least = browser.evaluate(LEAST_CONTRAST);
                assert!(least[0].as_f64().unwrap() >= 4.5, "{name}, {scheme}: contrast {least}");
                if let Some(folder) = &pictures {
                    browser.picture(&folder.join(format!("{name}-{width}-{scheme}.png")));
                }
            }
        }
    }
    browser.call("Page.navigate", json!({"url": url}));
    browser.wait_for("location.pathname === '/' && document.querySelector('#c-adt') !== null");
    for width in [1280, 390] {
        browser.look(width, "light");
        let tree = browser.accessible();
        let has = |role: &str, name: &str| tree.iter().any(|(r, n)| r == role && n.contains(name));
        let count = |role: &str| tree.iter().filter(|(r, _)| r == role).count();
        for (role, name) in [
            ("heading", "hl7server"),
            ("heading", "Channels"),
            ("heading", "Failed messages"),
            ("heading", "Alerts"),
            ("link", "To the content"),
            ("link", "adt"),
            ("rowheader", "adt"),
            ("columnheader", "Oldest waiting"),
            ("link", "1 failed message"),
        ] {
            assert!(has(role, name), "no {role} {name:?} at {width} px in {tree:#?}");
        }
        assert_eq!((count("main"), count("banner"), count("table")), (1, 1, 1), "{width} px: {tree:#?}");
        assert_eq!(
            (count("columnheader"), count("row"), count("rowheader")),
            (8, 4, 3),
            "{width} px: {tree:#?}"
        );
        assert_eq!(count("cell") + count("gridcell"), 3 * 7, "{width} px: {tree:#?}");
        assert!(count("status") >= 1, "nothing is read out when it changes");
        assert!(tree.iter().all(|(role, name)| role != "link" || !name.is_empty()), "a link without a name");
    }
    // Every link and list is reached by the key that does so, and shows where it is.
    let reached =
        "(() => [...document.querySelectorAll('a, summary, [tabindex]')].every((e) => e.tabIndex === 0))()";
    assert_eq!(browser.evaluate(reached), json!(true));
    for key in ["keyDown", "keyUp"] {
        browser.call(
            "Input.dispatchKeyEvent",
            json!({"type": key, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}),
        );
    }
    assert_eq!(browser.evaluate("document.activeElement.innerText"), json!("To the content"));
    assert_eq!(browser.complaints, Vec::<String>::new());
}
