use super::*;
use crate::arrived::Arrived;
use crate::bearer::Bearer;
use crate::directory::Claim;
use crate::service::{self, Named as _};

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn field(number: usize, bytes: &[u8]) -> Vec<u8> {
    [&varint(number << 3 | 2), &varint(bytes.len()), bytes].concat()
}

fn envelope(kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut raw = Envelope {
        meta: Some(Kind { kind: kind.into() }),
        raw: raw.to_vec().into(),
    }
    .encode_to_vec();
    raw.splice(0..0, MAGIC.iter().copied());
    raw
}

/// As a server writes it, with fields that nobody reads.
fn slice() -> Vec<u8> {
    let label = [field(1, b"kubernetes.io/service-name"), field(2, b"db")].concat();
    let meta = [
        field(1, b"db-x"),
        field(3, b"shop"),
        field(5, b"u"),
        field(6, b"7"),
        field(11, &label),
    ]
    .concat();
    let behind = [
        field(1, b"Pod"),
        field(2, b"shop"),
        field(3, b"db-0"),
        field(4, b"p"),
    ]
    .concat();
    let endpoint = [
        field(1, b"10.244.1.7"),
        field(2, &[8, 1]),
        field(4, &behind),
        field(6, b"node-1"),
        field(7, b"eu-1a"),
    ];
    [field(1, &meta), field(2, &endpoint.concat())].concat()
}

/// The same of a pod, in the node's network or not.
fn pod(is_host: bool) -> Vec<u8> {
    let label = |name: &str, value: &str| [field(1, name.as_bytes()), field(2, value.as_bytes())].concat();
    let owner = [
        field(1, b"ReplicaSet"),
        field(3, b"web-6d4cf56db6"),
        vec![6 << 3, 1],
    ]
    .concat();
    let meta = [
        field(1, b"web-6d4cf56db6-x7k2p"),
        field(3, b"shop"),
        field(5, b"u"),
        field(6, b"7"),
        field(8, &[8, 60]),
        field(11, &label("app", "web")),
        field(11, &label("pod-template-hash", "6d4cf56db6")),
        field(12, &label("kubernetes.io/config.seen", "2026-11-29T03:00:00Z")),
        field(12, &label("openshift.io/deployment-config.name", "web")),
        field(13, &owner),
        field(17, &[b'x'; 200]),
    ];
    let spec = [
        field(2, b"..."),
        field(10, b"node-2"),
        vec![11 << 3, u8::from(is_host)],
    ];
    let address = |ip: &[u8]| field(12, &field(1, ip));
    let status = [
        field(1, b"Running"),
        field(5, b"192.0.2.2"),
        address(b"10.244.2.7"),
        address(b"fd00::7"),
    ];
    [
        field(1, &meta.concat()),
        field(2, &spec.concat()),
        field(3, &status.concat()),
    ]
    .concat()
}

/// A list, as it comes in pieces of so many bytes.
fn listed(kind: &str, items: &[Vec<u8>], piece: usize) -> Result<String, BoxError> {
    let items: Vec<u8> = items.iter().flat_map(|item| field(2, item)).collect();
    let list = [field(1, &[field(2, b"9"), field(3, b"next")].concat()), items].concat();
    let mut answer = Answer::Whole(Whole::default());
    let mut out = Vec::new();
    for piece in [envelope(kind, &list), field(3, b""), field(4, b"")]
        .concat()
        .chunks(piece)
    {
        out.extend_from_slice(&answer.with(piece)?);
    }
    out.extend_from_slice(&answer.end()?);
    Ok(String::from_utf8(out)?)
}

fn read(json: &[u8]) -> String {
    let arrived: Arrived<service::Slice> = serde_json::from_slice(json).unwrap();
    let (uid, claims) = arrived.what.unwrap().claims();
    let claim = &claims[0];
    format!(
        "{uid} {} {} {} {} {} {}",
        claims.len(),
        claim.address,
        claim.service,
        claim.zone,
        claim.node,
        claim.pod_name
    )
}

/// Cause: a list, a status, and events that come in pieces. Seen: what JSON would have said; each event as soon as it is whole.
#[test]
fn what_comes_is_what_json_says() {
    let expected = "u 1 10.244.1.7 shop/db eu-1a node-1 shop/db-0";
    for piece in [1, 7, 1 << 20] {
        let list = listed("EndpointSliceList", &[slice(), slice()], piece).unwrap();
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        assert_eq!(list["metadata"]["resourceVersion"], "9");
        assert_eq!(list["metadata"]["continue"], "next");
        let items = list["items"].as_array().unwrap();
        assert_eq!(items.len(), 2);
        assert!(
            items
                .iter()
                .all(|item| read(item.to_string().as_bytes()) == expected)
        );
        let none = listed("EndpointSliceList", &[], piece).unwrap();
        assert_eq!(
            none,
            r#"{"items":[],"metadata":{"resourceVersion":"9","continue":"next"}}"#
        );
    }
    let event = Event {
        what: "ADDED".into(),
        object: Some(Raw {
            raw: envelope("EndpointSlice", &slice()).into(),
        }),
    };
    let event = event.encode_to_vec();
    let framed = [&(event.len() as u32).to_be_bytes(), event.as_slice()].concat();
    let mut answer = Answer::Events(BytesMut::new(), 1000);
    let told: Vec<Bytes> = [&framed[..3], &framed[3..50], &framed[50..], &framed.repeat(2)]
        .iter()
        .map(|piece| answer.with(piece).unwrap())
        .collect();
    let lines: Vec<usize> = told
        .iter()
        .map(|text| text.iter().filter(|b| **b == b'\n').count())
        .collect();
    assert_eq!(lines, [0, 0, 1, 2]);
    let line: serde_json::Value = serde_json::from_slice(&told[2]).unwrap();
    assert_eq!(line["type"], "ADDED");
    assert_eq!(read(line["object"].to_string().as_bytes()), expected);
    let status = Status {
        status: "Failure".into(),
        message: "gone".into(),
        reason: "Expired".into(),
        code: 410,
    };
    let mut whole = Answer::Whole(Whole::default());
    assert!(
        whole
            .with(&envelope("Status", &status.encode_to_vec()))
            .unwrap()
            .is_empty()
    );
    let status: serde_json::Value = serde_json::from_slice(&whole.end().unwrap()).unwrap();
    assert_eq!(
        (&status["code"], &status["status"]),
        (&410.into(), &"Failure".into())
    );
}

/// Cause: a list of pods. Seen: what is read of them, and of each no more than that.
#[test]
fn a_pod_is_what_its_addresses_need() {
    let list = listed("PodList", &[pod(false), pod(true)], 100).unwrap();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let read = |at: usize| {
        let text = list["items"][at].to_string();
        assert!(text.len() < 600, "{text}");
        let arrived: Arrived<Bearer> = serde_json::from_str(&text).unwrap();
        let claims = arrived.what.unwrap().claims().1.into_iter();
        let shown = |c: Claim| {
            format!(
                "{} {} {} {} {:?}",
                c.address, c.service, c.pod_name, c.node, c.rank
            )
        };
        claims.map(shown).collect::<Vec<_>>()
    };
    let is = |ip: &str| format!("{ip} shop/web shop/web-6d4cf56db6-x7k2p node-2 (true, 60)");
    assert_eq!(read(0), [is("10.244.2.7"), is("fd00::7")]);
    assert_eq!(read(1), [""; 0]);
}

/// Cause: a list that is longer than may be held, of which little is read; one whose objects are too long; one that ends too soon. Seen: the
/// first is read, the others are errors.
#[test]
fn a_list_may_be_longer_than_what_is_held() {
    let _alone = crate::LARGE.lock().unwrap();
    let long = |size: usize| [pod(false), field(2, &field(2, &vec![b'x'; size]))].concat();
    let all = vec![long(LONGEST_EVENT / 4); 20];
    let list = listed("PodList", &all, 1 << 16).unwrap();
    assert!(20 * LONGEST_EVENT / 4 > LONGEST_LIST && list.len() < 20 * 600);
    assert_eq!(list.matches("10.244.2.7").count(), 20);
    let error = listed("PodList", &[long(LONGEST_EVENT)], 1 << 16).unwrap_err();
    assert!(error.is::<TooLong>(), "{error}");
    let list = envelope("PodList", &field(2, &pod(false)));
    let mut answer = Answer::Whole(Whole::default());
    answer.with(&list[..list.len() - 1]).unwrap();
    assert!(answer.end().unwrap_err().is::<Strange>());
}

/// Cause: what is no envelope, another kind, a message that is cut, and an event that is longer than may be. Seen: an error, before the
/// long one has come.
#[test]
fn what_is_wrong_is_an_error() {
    for wrong in [
        b"{}".to_vec(),
        envelope("Secret", b""),
        envelope("EndpointSlice", &slice()[..40]),
        MAGIC.to_vec(),
    ] {
        let mut answer = Answer::Whole(Whole::default());
        answer.with(&wrong).unwrap();
        assert!(answer.end().is_err(), "{wrong:?}");
    }
    let mut answer = Answer::Events(BytesMut::new(), 1000);
    let error = answer.with(&1001u32.to_be_bytes()).unwrap_err();
    assert!(error.is::<TooLong>(), "{error}");
}

/// Cause: a service of two families, with an address of its own making and balancers that have an address or a name. Seen: its addresses, each
/// once, and nothing of its labels.
#[test]
fn a_service_is_its_addresses() {
    let label = [field(1, b"app"), field(2, b"web")].concat();
    let meta = [
        field(1, b"web"),
        field(3, b"shop"),
        field(5, b"u"),
        field(6, b"7"),
        field(11, &label),
    ];
    let spec = [
        field(1, &field(1, b"http")),
        field(3, b"10.96.0.7"),
        field(4, b"LoadBalancer"),
        field(5, b"192.0.2.9"),
        field(18, b"10.96.0.7"),
        field(18, b"fd00:96::7"),
    ];
    let balancers = [
        field(1, &field(1, b"203.0.113.5")),
        field(1, &field(2, b"lb.example")),
    ];
    let status = field(1, &balancers.concat());
    let service = [
        field(1, &meta.concat()),
        field(2, &spec.concat()),
        field(3, &status),
    ];
    let list = listed("ServiceList", &[service.concat(), field(1, &meta.concat())], 7).unwrap();
    assert!(!list.contains("http") && !list.contains("app"), "{list}");
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let claims = |item: usize| {
        let text = list["items"][item].to_string();
        let arrived: Arrived<service::Service> = serde_json::from_str(&text).unwrap();
        let (uid, claims) = arrived.what.unwrap().claims();
        assert_eq!(uid, "u");
        let told = claims
            .iter()
            .map(|claim| format!("{} {}", claim.service, claim.address));
        told.collect::<Vec<_>>()
    };
    let expected = ["10.96.0.7", "fd00:96::7", "192.0.2.9", "203.0.113.5"];
    assert_eq!(claims(0), expected.map(|address| format!("shop/web {address}")));
    assert_eq!(claims(1), [""; 0], "without an address it has none");
}
