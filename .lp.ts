import { loadEngine } from "./mod.ts";
const e:any = await loadEngine({drafter:["sedd-target","gpt2"]});
const T:Record<string,[number,number]>={};
function wrap(o:any,name:string,label:string,isAsync=false){ const p=Object.getPrototypeOf(o); const f=p[name]; p[name]=function(...a:any[]){const s=performance.now(); const r=f.apply(this,a); const x=T[label]??=[0,0]; x[0]+=performance.now()-s; x[1]++; return r;}; }
const { ModelTarget } = await import("./src/decode/model_target.ts");
const { DiffusionDrafter } = await import("./src/decode/diffusion_drafter.ts");
const { DeviceDistributions } = await import("./src/decode/device_distributions.ts");
const { PhiloxSource } = await import("./src/decode/random.ts");
wrap(e.target,"forward","target.forward");
const fed = await import("./src/model/sedd.ts"); const S:any=(fed as any).Sedd;
for (const n of ["feed","denoise","markovLogits"]) wrap({__proto__:S.prototype},n,"d."+n);
wrap({__proto__:DeviceDistributions.prototype},"fill","fill");
wrap({__proto__:DiffusionDrafter.prototype},"draft","draft");
for (const n of ["choose","race","uniform"]) if ((PhiloxSource.prototype as any)[n]) wrap({__proto__:PhiloxSource.prototype},n,"rng."+n);
const drafter = Deno.args[0]==="none"?null:Deno.args[0]; const gamma=Number(Deno.args[1]??2);
for (let k=0;k<6;k++){ if(k===2) for(const x in T) delete T[x];
 const g=await e.generate("It was a dark and stormy night, and the old house",{drafter,gamma,seed:k,maxTokens:160,stopTokens:[]});
 if(k===5) console.log(g.stats.draftMs/g.stats.rounds,g.stats.verifyMs/g.stats.rounds,g.stats.otherMs/g.stats.rounds,g.stats.rounds, g.stats.tokensPerSecond); }
for(const k in T) console.log(k, (T[k][0]/T[k][1]*1000).toFixed(1),"us x",T[k][1], "total ms", T[k][0].toFixed(1));
e[Symbol.dispose]();
