/** The bundle for browsers: the package's sources need polyfills of Node. */
declare module "simple-peer/simplepeer.min.js" {
  import SimplePeer from "simple-peer";
  export default SimplePeer;
}
