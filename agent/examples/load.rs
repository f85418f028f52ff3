//! temp
use agent::bpf::*; use agent::bpf::fields::Group::*;
fn main(){
 let mut e=Engine::load(None,Sizes{ring_bytes:1<<20,slots:256,shards:2,drop_keys:1024,prefixes:64}).unwrap();
 for (n,h) in [("tcp_adopt",Hook::IterFiles),("tcp_sweep",Hook::IterMap("CONNECTIONS")),("tcp_probe",Hook::TpBtf("tcp_probe")),("tcp_state",Hook::TpBtf("inet_sock_set_state")),("tcp_retransmit",Hook::TpBtf("tcp_retransmit_skb")),("tcp_synack",Hook::TpBtf("tcp_retransmit_synack")),("tcp_send_reset",Hook::TpBtf("tcp_send_reset")),("tcp_receive_reset",Hook::TpBtf("tcp_receive_reset")),("drops_kfree",Hook::TpBtf("kfree_skb")),("drops_udp_queue",Hook::TpBtf("udp_fail_queue_rcv_skb"))] {
  let s=Spec{name:n,probe:"tcp",account:0,hook:h,needs:&[Sock,Tcp,Task],required:true,remedy:""};
  let st=e.attach(&s); let v=e.verdicts.last().unwrap(); println!("{n} {st:?} {} | {}",v.reason,v.remedy); if std::env::args().nth(1).as_deref()==Some("-v") {println!("{}",v.verifier_log);}
 }
 println!("{:?}",e.map_memory);
 e.run_iterator("tcp_adopt");
 std::thread::sleep(std::time::Duration::from_secs(3));
 e.run_iterator("tcp_sweep");
 for p in 0..13 { println!("{p} {:?}", (0..10).map(|w| (0..e.cpus).map(|c| e.accounts.u64_at(p*e.cpus as usize+c as usize,w*8)).sum::<u64>()).collect::<Vec<_>>()); }
}
