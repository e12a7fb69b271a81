//! The client before a double that answers as a real Solr does.

use super::*;
use crate::testing::http_server::{Certificate, Reply};
use crate::testing::solr::{Core, PASSWORD, Solr, USER};
use config::PlainSecret;
use serde_json::json;

fn server(port: u16, cores: &[&str]) -> SolrServer {
    SolrServer {
        name: "127.0.0.1".to_owned(),
        port,
        https: false,
        user: USER.to_owned(),
        password: Password::Plain(PlainSecret::new(PASSWORD.to_owned())),
        certificate: true,
        ca_file: None,
        active_cores: cores.iter().map(|core| (*core).to_owned()).collect(),
        timeout: Duration::from_secs(2),
    }
}

fn client_of(server: &SolrServer) -> SolrClient {
    SolrClient::new(server, &password(server, &BTreeMap::new()))
}

fn client(solr: &Solr, cores: &[&str]) -> SolrClient {
    client_of(&server(solr.port(), cores))
}

fn doc(id: &str, fields: serde_json::Value) -> Document {
    let mut fields = fields;
    fields["id"] = json!(id);
    Document { json: fields.to_string() }
}

fn docs(n: usize) -> Vec<Document> {
    (0..n).map(|n| doc(&format!("m{n:03}"), json!({"type_s": "ADT^A01"}))).collect()
}

#[track_caller]
fn down(result: &Result<(), Fault>) -> &str {
    match result {
        Err(Fault::Again { reason, target_down: true, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn documents_go_in_batches_over_one_connection() {
    let solr = Solr::start(0, None, &[CORE]);
    let mut client = client(&solr, &[]);
    assert!(client.index(&docs(250)).iter().all(Result::is_ok));
    assert_eq!(solr.documents(CORE).len(), 250);
    let requests = solr.requests();
    let sizes: Vec<usize> = requests.iter().map(|r| r.json().as_array().unwrap().len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    assert_eq!(solr.connections(), 1);
    for request in requests {
        assert_eq!((request.parameter("commitWithin"), request.parameter("commit")), ("5000", ""));
        assert_eq!(request.header("content-encoding"), "");
    }
}

#[test]
fn a_batch_is_bounded_in_bytes_too() {
    let solr = Solr::start(0, None, &[CORE]);
    let values: Vec<String> = (0..50).map(|_| "x".repeat(32_000)).collect();
    let large: Vec<Document> = (0..5).map(|n| doc(&n.to_string(), json!({"OBX_ss": values}))).collect();
    assert!(client(&solr, &[]).index(&large).iter().all(Result::is_ok));
    assert!(solr.requests().iter().all(|r| r.body.len() <= BATCH_BYTES_MAX + 2));
    assert_eq!(solr.documents(CORE).len(), 5);
}

#[test]
fn a_bad_document_fails_alone_and_the_others_are_there_once() {
    let solr = Solr::start(0, None, &[CORE]);
    solr.state().numbers.insert("age_s".to_owned());
    let mut all = docs(5);
    all[2] = doc("m002", json!({"age_s": "Eva Muster"}));
    let results = client(&solr, &[]).index(&all);
    for (at, result) in results.iter().enumerate() {
        assert_eq!(result.is_ok(), at != 2, "{at}: {result:?}");
    }
    let Err(Fault::Failed(reason)) = &results[2] else { panic!("{results:?}") };
    assert!(reason.contains("because of field age_s (400)") && !reason.contains("Eva"), "{reason}");
    let ids: Vec<String> = solr.documents(CORE).into_keys().collect();
    assert_eq!(ids, ["m000", "m001", "m003", "m004"]);
}

#[test]
fn a_server_error_over_one_document_keeps_the_others_from_nothing() {
    let solr = Solr::start(0, None, &[CORE]);
    solr.state().poison = Some("m001".to_owned());
    let results = client(&solr, &[]).index(&docs(4));
    assert!(matches!(results[1], Err(Fault::Again { target_down: false, .. })), "{results:?}");
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 3);
    assert_eq!(solr.documents(CORE).len(), 3);
}

#[test]
fn a_server_that_errs_with_every_document_is_not_asked_a_hundred_times() {
    let solr = Solr::start(0, None, &[CORE]);
    solr.state().cores.insert(CORE.to_owned(), Core::Broken("no conf".to_owned()));
    let results = client(&solr, &[]).index(&docs(100));
    assert!(results.iter().all(|r| matches!(r, Err(Fault::Again { .. }))), "{results:?}");
    assert_eq!(solr.requests().len(), 1 + FAULTS_MAX);
}

#[test]
fn a_missing_core_is_created_before_the_first_document_and_a_loading_one_waited_for() {
    let solr = Solr::start(0, None, &["other"]);
    solr.state().cores.insert("other".to_owned(), Core::Loading(3));
    assert_eq!(client(&solr, &["other", CORE]).index(&docs(1)), [Ok(())]);
    assert_eq!(solr.state().created, [CORE]);
    assert_eq!(solr.state().cores["other"], Core::Ready);
}

#[test]
fn a_core_that_keeps_loading_delays_and_loses_nothing() {
    let solr = Solr::start(0, None, &[CORE]);
    solr.state().cores.insert(CORE.to_owned(), Core::Loading(1_000));
    let mut client =
        client_of(&SolrServer { timeout: Duration::from_millis(500), ..server(solr.port(), &[CORE]) });
    let results = client.index(&docs(1));
    assert!(down(&results[0]).ends_with("is still loading"), "{results:?}");
    solr.state().cores.insert(CORE.to_owned(), Core::Ready);
    assert_eq!(client.index(&docs(1)), [Ok(())]);
}

#[test]
fn a_broken_core_says_why() {
    let solr = Solr::start(0, None, &[]);
    solr.state()
        .cores
        .insert(CORE.to_owned(), Core::Broken("org.apache.solr:Could not load conf".to_owned()));
    let results = client(&solr, &[CORE]).index(&docs(1));
    assert!(down(&results[0]).ends_with("is broken: org.apache.solr:Could not load conf"), "{results:?}");
}

#[test]
fn a_fault_of_a_core_that_indexing_does_not_need_delays_nothing() {
    let solr = Solr::start(0, None, &[CORE]);
    solr.state().cores.insert("pacs".to_owned(), Core::Broken("gone".to_owned()));
    let mut client = client(&solr, &["pacs", CORE]);
    assert_eq!(client.index(&docs(1)), [Ok(())]);
    assert_eq!(client.index(&docs(1)), [Ok(())]);
    let asked = solr.requests().iter().filter(|r| r.parameter("core") == "pacs").count();
    assert_eq!(asked, 1, "not before every batch");
}

#[test]
fn a_core_that_vanishes_is_made_again_only_where_the_file_asks_for_it() {
    for (cores, after) in [(&[CORE][..], Ok(())), (&[], Err(()))] {
        let solr = Solr::start(0, None, &[CORE]);
        let mut client = client(&solr, cores);
        assert_eq!(client.index(&docs(1)), [Ok(())]);
        solr.state().cores.clear();
        let results = client.index(&docs(1));
        assert!(down(&results[0]).contains("has no core hl7"), "{results:?}");
        let results = client.index(&docs(1));
        assert_eq!(results[0].clone().map_err(|_| ()), after, "{results:?}");
    }
}

#[test]
fn a_user_who_may_only_index_is_enough() {
    let solr = Solr::start(0, None, &[CORE]);
    solr.state().restricted = true;
    assert_eq!(client(&solr, &[CORE]).index(&docs(1)), [Ok(())]);
}

#[test]
fn a_password_that_is_being_changed_loses_nothing() {
    let solr = Solr::start(0, None, &[CORE]);
    let mut client = client(&solr, &[]);
    solr.state().password = Some("Basic other".to_owned());
    let results = client.index(&docs(2));
    assert!(down(&results[1]).contains("refused user \"istmia\""), "{results:?}");
    assert!(!format!("{results:?}").contains(PASSWORD));
    solr.state().password = None;
    assert_eq!(client.index(&docs(2)), [Ok(()), Ok(())]);
}

#[test]
fn two_hundred_with_nothing_in_it_is_no_success() {
    let solr = Solr::start(0, None, &[CORE]);
    let mut client = client(&solr, &[]);
    for body in ["", "<html>welcome</html>", r#"{"responseHeader":{"status":1}}"#] {
        solr.state().next_updates.push_back(Reply::of(200, "text/plain", body));
        let results = client.index(&docs(1));
        assert!(down(&results[0]).contains("answered 200 without a result"), "{results:?}");
    }
    assert_eq!(client.index(&docs(1)), [Ok(())]);
}

#[test]
fn every_way_of_not_answering_ends_within_the_timeout() {
    let mut solr = Solr::start(0, None, &[CORE]);
    let mut client =
        client_of(&SolrServer { timeout: Duration::from_millis(700), ..server(solr.port(), &[]) });
    let endless =
        [b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n".as_slice(), &[b' '; 1_100_000]].concat();
    for (reply, said) in [
        (Reply::Silence, "did not answer within 0.7 s"),
        (Reply::HangUp, "closed the connection before it had answered"),
        (Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()), ""),
        (Reply::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), "something that is not HTTP"),
        (Reply::Raw(endless), "more than 1048576 bytes"),
        (
            Reply::of(302, "text/html", "").with("Location", "http://127.0.0.1:1/solr/"),
            "302 Found and points elsewhere",
        ),
        (Reply::of(503, "text/html", "busy").with("Retry-After", "7"), "503 Service Unavailable"),
    ] {
        solr.state().next_updates.push_back(reply);
        let begun = Instant::now();
        let results = client.index(&docs(120));
        assert!(results.iter().all(|r| down(r).contains(said)), "{said}: {:?}", results[0]);
        assert!(begun.elapsed() < Duration::from_secs(2), "{said}");
        if said.starts_with("503") {
            assert!(matches!(results[119], Err(Fault::Again { wanted_us: Some(7_000_000), .. })));
        }
    }
    solr.down();
    let results = client.index(&docs(1));
    assert!(down(&results[0]).ends_with("connection refused"), "{results:?}");
    solr.up();
    assert_eq!(client.index(&docs(1)), [Ok(())]);
}

#[test]
fn a_connection_that_the_server_closed_meanwhile_is_made_again() {
    let solr = Solr::start(0, None, &[CORE]);
    let mut client = client(&solr, &[]);
    let body = r#"{"responseHeader":{"status":0}}"#;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    solr.state().next_updates.push_back(Reply::Raw(answer.into_bytes()));
    assert_eq!(client.index(&docs(1)), [Ok(())]);
    // The end of the connection is on its way.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(client.index(&docs(1)), [Ok(())]);
    assert_eq!(solr.connections(), 2);
}

#[test]
fn a_name_without_an_address_is_said() {
    let mut client = client_of(&SolrServer { name: "nobody.invalid".to_owned(), ..server(1, &[]) });
    // Without a network the name service is what does not answer.
    let results = client.index(&docs(1));
    assert!(down(&results[0]).contains("solr \"nobody.invalid:1\""), "{results:?}");
}

#[test]
fn a_certificate_is_checked_unless_the_file_says_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let ca_file = Some(Certificate::make(folder.path(), "a").certificate);
    let own = Certificate::make(folder.path(), "a");
    let stranger = Some(Certificate::make(folder.path(), "b").certificate);
    let solr = Solr::start(0, Some(own), &[CORE]);
    let https = SolrServer { https: true, ..server(solr.port(), &[]) };
    for (certificate, ca_file, good) in
        [(true, ca_file, true), (true, None, false), (true, stranger, false), (false, None, true)]
    {
        let mut client = client_of(&SolrServer { certificate, ca_file: ca_file.clone(), ..https.clone() });
        let results = client.index(&docs(1));
        if good {
            assert_eq!(results, [Ok(())], "{ca_file:?}");
        } else {
            assert!(down(&results[0]).contains("TLS: "), "{ca_file:?}: {results:?}");
        }
    }
    // The name must be in the certificate: 127.0.0.1 is, 127.0.0.2 is not.
    let ca_file = Some(folder.path().join("a.pem"));
    let mut client = client_of(&SolrServer { name: "127.0.0.2".to_owned(), ca_file, ..https.clone() });
    let results = client.index(&docs(1));
    down(&results[0]);
    // Plain HTTP to a TLS port.
    let mut client = client_of(&SolrServer { https: false, ..https.clone() });
    down(&client.index(&docs(1))[0]);
    let mut client = client_of(&SolrServer { ca_file: Some(folder.path().join("none.pem")), ..https });
    let results = client.index(&docs(1));
    assert!(down(&results[0]).ends_with("no such file or directory"), "{results:?}");
}

fn filter() -> ResendFilter {
    ResendFilter {
        source_core: "pacs".to_owned(),
        match_source: "ZDS.1.1.1".parse().unwrap(),
        match_field: "StudyInstanceUID_s".to_owned(),
        search_field: "Institution_ss".to_owned(),
        match_values: vec!["MAIN".to_owned()],
    }
}

fn with_pacs(documents: usize, institution: &str) -> Solr {
    let solr = Solr::start(0, None, &["pacs"]);
    for n in 0..documents {
        let study = json!({"StudyInstanceUID_s": "1.2.3", "Institution_ss": ["X", institution]});
        solr.state().documents.entry("pacs".to_owned()).or_default().insert(n.to_string(), study);
    }
    solr
}

#[test]
fn the_filter_forwards_when_a_found_document_holds_one_of_the_values() {
    let solr = with_pacs(1, "MAIN");
    let mut client = client(&solr, &[]);
    assert_eq!(client.filter_says(&filter(), Some("1.2.3")), Ok(true));
    assert_eq!(client.filter_says(&filter(), Some("1.2.4")), Ok(false));
    let other = ResendFilter { match_values: vec!["ELSEWHERE".to_owned()], ..filter() };
    assert_eq!(client.filter_says(&other, Some("1.2.3")), Ok(false));
    let asked = solr.requests().len();
    assert_eq!(client.filter_says(&filter(), None), Ok(false));
    assert_eq!(client.filter_says(&filter(), Some("")), Ok(false));
    assert_eq!(solr.requests().len(), asked, "nothing to look up");
}

#[test]
fn the_filter_looks_through_every_page() {
    let solr = with_pacs(250, "OTHER");
    let mut client = client(&solr, &[]);
    assert_eq!(client.filter_says(&filter(), Some("1.2.3")), Ok(false));
    assert_eq!(solr.requests().len(), 3);
    solr.state().documents.get_mut("pacs").unwrap().get_mut("99").unwrap()["Institution_ss"] = json!("MAIN");
    assert_eq!(client.filter_says(&filter(), Some("1.2.3")), Ok(true));
}

#[test]
fn a_value_is_never_query_syntax() {
    let solr = with_pacs(3, "MAIN");
    let mut client = client(&solr, &[]);
    let long = "9".repeat(20_000);
    for value in [
        "*",
        "*:*",
        "1.2.3 OR *:*",
        "{!term f=id v=0}",
        "$v",
        "${q}",
        "\" OR \"",
        "a&q=*:*",
        "%2A",
        "ü\r\n",
        long.as_str(),
    ] {
        assert_eq!(client.filter_says(&filter(), Some(value)), Ok(false), "{value}");
        let request = solr.requests().pop().unwrap();
        assert_eq!(request.parameter("v"), value);
        assert_eq!(request.parameter("q"), "{!term f=StudyInstanceUID_s v=$v}");
        assert_eq!((request.parameter("expandMacros"), request.parameter("defType")), ("false", "lucene"));
        assert_eq!(request.method, "POST");
    }
    // Such a value can be looked for like any other.
    solr.state().documents.get_mut("pacs").unwrap().get_mut("0").unwrap()["StudyInstanceUID_s"] =
        json!("${wt}");
    assert_eq!(client.filter_says(&filter(), Some("${wt}")), Ok(true));
}

#[test]
fn a_look_up_that_fails_is_never_a_no() {
    let mut solr = with_pacs(1, "MAIN");
    let mut client = client(&solr, &[]);
    let unknown = ResendFilter { match_field: "nofield".to_owned(), ..filter() };
    assert!(matches!(client.filter_says(&unknown, Some("1.2.3")), Err(Fault::Failed(_))));
    let missing = ResendFilter { source_core: "nope".to_owned(), ..filter() };
    assert!(matches!(
        client.filter_says(&missing, Some("1.2.3")),
        Err(Fault::Again { target_down: true, .. })
    ));
    solr.down();
    assert!(matches!(
        client.filter_says(&filter(), Some("1.2.3")),
        Err(Fault::Again { target_down: true, .. })
    ));
}

#[test]
fn a_probe_says_how_each_core_is_and_creates_none() {
    let solr = Solr::start(0, None, &["pacs"]);
    let mut client = client(&solr, &[CORE]);
    let said = client.probe(&[CORE, "pacs", "nope"]);
    assert!(said[0].as_ref().unwrap().ends_with("core hl7 is absent and will be created"), "{said:?}");
    assert!(said[1].as_ref().unwrap().ends_with("core pacs answers"), "{said:?}");
    assert!(said[2].as_ref().unwrap_err().ends_with("has no core nope"), "{said:?}");
    assert_eq!(solr.state().created, Vec::<String>::new());
}
