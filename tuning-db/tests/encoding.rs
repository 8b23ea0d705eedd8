//! Property tests of the byte and JSON forms.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use cce_tuning_db::{
    Clocks, Config, Device, Dtype, Eps, Filter, Generation, Gradients, Key, MemoryClass, Objective, Problem,
    ProgramHash, Provenance, Record, Resources, Shape, Status, Trial,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::Value;

fn device() -> impl Strategy<Value = Device> {
    prop_oneof![
        (".{0,30}", any::<(u16, u16)>(), any::<u32>(), any::<u64>(), any::<u64>())
            .prop_map(|(name, cc, sms, shared, l2)| Device::gpu(name, cc, sms, shared, l2)),
        (".{0,30}", any::<u32>()).prop_map(|(name, cores)| Device::cpu(name, cores)),
    ]
}

fn filter() -> impl Strategy<Value = Filter> {
    let eps = prop_oneof![
        (-1022_i32..1023).prop_map(|e| Eps::power_of_two(e).unwrap()),
        (f64::MIN_POSITIVE..f64::MAX).prop_map(|v| Eps::new(v).unwrap()),
    ];
    (eps, any::<u32>(), 0..3).prop_map(|(eps, max_entries, kind)| match kind {
        0 => Filter::Exact,
        1 => Filter::Blocks { eps },
        _ => Filter::Sampled { eps, max_entries },
    })
}

fn shape() -> impl Strategy<Value = Shape> {
    any::<(u64, u64, u64)>().prop_map(|(n, d, v)| Shape::new(n, d, v))
}

fn key() -> impl Strategy<Value = Key> {
    let problem = (shape(), any::<(bool, bool, u64, bool, bool)>()).prop_map(
        |(shape, (e, c, inputs, ignored, add))| {
            Problem::new(shape)
                .with_gradients(Gradients::new(e, c).with_inputs(inputs))
                .with_ignored(ignored)
                .with_accumulate(add)
        },
    );
    let objective = prop_oneof![Just(Objective::Loss), Just(Objective::LossAndGradients)];
    let dtype = prop_oneof![Just(Dtype::Bf16), Just(Dtype::F16), Just(Dtype::F32)];
    let memory = option::of(any::<u64>()).prop_map(MemoryClass::of_limit);
    (any::<[u8; 32]>(), problem, device(), objective, dtype, memory, filter()).prop_map(
        |(program, problem, device, objective, dtype, memory, filter)| {
            Key::new(ProgramHash::from_bytes(program), problem, device)
                .with_objective(objective)
                .with_dtype(dtype)
                .with_memory(memory)
                .with_filter(filter)
        },
    )
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((".{0,8}", inner), 0..6).prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn trial() -> impl Strategy<Value = Trial> {
    let generation = (".{0,12}", ".{0,12}").prop_map(|(c, s)| Generation::new(c, s));
    let provenance = (".{0,12}", any::<u64>(), option::of(".{0,12}")).prop_map(|(host, ms, driver)| {
        let made = Provenance::new(host, ms);
        match driver {
            Some(driver) => made.with_driver(driver).with_nvrtc("13.0"),
            None => made,
        }
    });
    let error = prop_oneof![Just(f64::INFINITY), Just(f64::NEG_INFINITY), -1e300..1e300];
    let clocks = option::of(any::<(u32, u64)>().prop_map(|(mhz, reasons)| {
        Clocks::new(Some(mhz), None).with_state(Some(1), Some(-5), Some(reasons))
    }));
    let times = vec(f64::MIN_POSITIVE..1e12, 0..12);
    (json(), shape(), generation, provenance, times, option::of(error), clocks, ".{0,20}").prop_map(
        |(config, shape, generation, provenance, times, error, clocks, reason)| {
            let config = Config::new(config);
            let trial = if times.is_empty() {
                Trial::dropped(config, shape, Status::Wrong(reason), generation, provenance)
            } else {
                Trial::measured(config, shape, times, generation, provenance)
                    .unwrap()
                    .with_resources(Resources::new(255, 8, 1 << 40))
            };
            let trial = trial.with_clocks(clocks, clocks);
            match error {
                Some(error) => trial.with_gradient_error(error),
                None => trial,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_key_survives_its_byte_form_and_its_json(key in key()) {
        let bytes = key.encode().unwrap();
        prop_assert_eq!(&Key::decode(&bytes).unwrap(), &key);
        let json = serde_json::to_string(&key).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Key>(&json).unwrap(), &key);
        let prefix = Key::program_prefix(&key.device, &key.program).unwrap();
        prop_assert!(bytes.starts_with(&prefix));
        prop_assert!(prefix.starts_with(&Key::device_prefix(&key.device).unwrap()));
    }

    #[test]
    fn no_key_is_a_prefix_of_another_and_no_device_of_another(a in key(), b in key()) {
        let (x, y) = (a.encode().unwrap(), b.encode().unwrap());
        prop_assert_eq!(a == b, x.starts_with(&y) || y.starts_with(&x));
        let (x, y) = (Key::device_prefix(&a.device).unwrap(), Key::device_prefix(&b.device).unwrap());
        prop_assert_eq!(a.device == b.device, x.starts_with(&y) || y.starts_with(&x));
    }

    #[test]
    fn bytes_that_are_no_key_are_refused(
        key in key(),
        cut in any::<prop::sample::Index>(),
        junk in vec(any::<u8>(), 1..20),
    ) {
        let bytes = key.encode().unwrap();
        prop_assert!(Key::decode(&bytes[..cut.index(bytes.len())]).is_err());
        prop_assert!(Key::decode(&[&bytes[..], &junk[..]].concat()).is_err());
        // Whatever the bytes: an answer, no panic; and what is accepted encodes to the same bytes.
        if let Ok(key) = Key::decode(&junk) {
            prop_assert_eq!(key.encode().unwrap(), junk);
        }
    }

    #[test]
    fn a_record_survives_json_bit_for_bit(key in key(), trial in trial()) {
        let record = Record::new(key, trial);
        let json = serde_json::to_vec(&record).unwrap();
        let read: Record = serde_json::from_slice(&json).unwrap();
        prop_assert_eq!(&read, &record);
        prop_assert_eq!(serde_json::to_vec(&read).unwrap(), json);
    }

    #[test]
    fn the_hash_of_a_configuration_is_that_of_its_canonical_text(value in json()) {
        let config = Config::new(value);
        let again = Config::new(serde_json::from_str(config.text()).unwrap());
        prop_assert_eq!(again.hash(), config.hash());
        prop_assert_eq!(again.text(), config.text());
    }
}

#[test]
fn the_byte_form_of_a_key_does_not_change() {
    let eps = Eps::power_of_two(-10).unwrap();
    let key = common::key()
        .with_filter(Filter::Sampled { eps, max_entries: 384 })
        .with_memory(MemoryClass::of_limit(Some(1 << 30)))
        .with_objective(Objective::LossAndGradients);
    let hex: String = key.encode().unwrap().iter().map(|b| format!("{b:02x}")).collect();
    let program = key.program.to_string();
    let name: String = "NVIDIA H100 80GB HBM3".bytes().map(|b| format!("{b:02x}")).collect();
    let device = [
        "00000001", // schema
        "01",       // GPU
        "0015",     // length of its name
        &name,
        "00090000",         // compute capability
        "00000084",         // SMs
        "0000000000038c00", // shared memory
        "0000000003200000", // L2
    ];
    let tail = [
        "00",               // bf16
        "01",               // loss and gradients
        "02",               // sampled
        "3f50000000000000", // 2^-10
        "00000180",         // 384 entries
        "001e",             // at most 2^30 bytes
        "00",               // no gradient of E or C
        "00",               // no flags
        "0000000000000000", // no gradient of inputs
        "0000000000000900", // D
        "000000000003e800", // V
        "0000000000002000", // N
    ];
    assert_eq!(hex, device.concat() + &program + &tail.concat());
}

#[test]
fn the_json_of_a_key_reads_like_one() {
    let eps = Eps::power_of_two(-8).unwrap();
    let key =
        common::key().with_filter(Filter::Blocks { eps }).with_memory(MemoryClass::of_limit(Some(5000)));
    let json = serde_json::to_value(&key).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["filter"]["blocks"]["eps"], "2^-8");
    assert_eq!(json["memory"]["at_most"]["log2_bytes"], 12);
    assert_eq!(json["device"]["gpu"]["compute_capability"], serde_json::json!([9, 0]));
    assert_eq!(json["dtype"], "bf16");
    assert_eq!(json["objective"], "loss");
}
