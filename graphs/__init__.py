"""What an ONNX graph and a trace are, and what can be done to them. Protobuf and onnxruntime stay in here."""
